//! The RepositoriesActor: runs one job for each repository that has work due.
//!
//! A job fetches a repository whose chain is broken, replays parked commits, compares a repository
//! after a gap, asks for the status of an account, or looks up its handle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use super::{RETRY_JITTER, Repositories, account_status, handle, job};
use crate::actor::{ActorContext, Arguments};
use crate::atproto::syntax::Did;
use crate::delivery::backoff::Backoff;
use crate::store::StoreError;
use crate::store::repo_store::JobKind;
use crate::testing::fault::Point;

/// How often the actor looks for jobs that become due by time alone.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The pause in which no jobs start after the database failed. It doubles from `DATABASE_RETRY_MIN`
/// to `DATABASE_RETRY_MAX`.
const DATABASE_RETRY_MIN: Duration = Duration::from_millis(200);
const DATABASE_RETRY_MAX: Duration = Duration::from_secs(10);
/// The deadline of a job. Each step of a job has a deadline of its own; this one is a safeguard.
const JOB_DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// The pause after which a repository whose task panicked is retried.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(60);

/// Runs the jobs on repositories; see the module.
pub struct RepositoriesActor;

#[derive(Debug)]
pub enum RepositoriesMessage {
    /// A job may be due.
    Wake,
    /// A job ended.
    JobEnded,
    /// Time passed, so jobs may be due.
    Tick,
}

pub struct RepositoriesState {
    context: ActorContext<Repositories>,
    jobs: JoinSet<Result<(), StoreError>>,
    running_jobs: HashMap<Id, (Did, Job)>,
    /// Repositories whose task panicked, and until when no job runs for them.
    panicked: HashMap<Did, Instant>,
    /// Until when no jobs start, because the database failed.
    paused_until: Option<Instant>,
    backoff: Backoff,
}

/// The kinds of jobs. Each kind has slots of its own, so that no kind delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Repository(JobKind),
    /// Ask for the status of an account.
    ConfirmStatus,
    /// Take an account's handle from its document.
    LookUpHandle,
}

impl Job {
    /// The number of jobs of this kind that may run at once.
    fn slots(self) -> usize {
        match self {
            Self::Repository(JobKind::Replay | JobKind::Resync) => 8,
            Self::Repository(JobKind::Recheck | JobKind::Backfill) | Self::ConfirmStatus => 4,
            Self::LookUpHandle => 2,
        }
    }
}

impl Actor for RepositoriesActor {
    type Msg = RepositoriesMessage;
    type State = RepositoriesState;
    type Arguments = Arguments<Repositories>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::RepositoriesStart).await?;
        myself.cast(RepositoriesMessage::Tick)?;
        myself.send_interval(LOOK_INTERVAL, || RepositoriesMessage::Tick);
        Ok(RepositoriesState {
            context,
            jobs: JoinSet::new(),
            running_jobs: HashMap::new(),
            panicked: HashMap::new(),
            paused_until: None,
            backoff: Backoff::try_new(
                DATABASE_RETRY_MIN,
                DATABASE_RETRY_MAX,
                RETRY_JITTER,
                fastrand::Rng::new(),
            )?,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.busy();
        let repositories = state.context.shared().clone();
        // A wake from now on is a new one. A wake that a predecessor did not handle is handled by
        // this message.
        repositories
            .idleness
            .is_wake_pending
            .store(false, Ordering::Release);
        state.context.pass(Point::RepositoriesMessage).await?;
        state.reap();
        if let RepositoriesMessage::Tick = message {
            reconcile_gaps(&repositories).await;
        }
        if state.is_paused() {
            return Ok(());
        }
        if let Err(error) = state.fill(&repositories, &myself).await {
            state.pause(&error);
        }
        Ok(())
    }
}

impl RepositoriesState {
    fn reap(&mut self) {
        while let Some(ended) = self.jobs.try_join_next_with_id() {
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            let did = self.running_jobs.remove(&id).map(|(did, _)| did);
            match ended {
                Ok((_, Ok(()))) => self.backoff.reset(),
                Ok((_, Err(error))) => self.pause(&error),
                Err(error) => {
                    let panicked = did.as_ref().map(Did::as_str);
                    tracing::error!(
                        did = panicked,
                        %error,
                        "repository task panicked; retrying in 60 s"
                    );
                    let until = Instant::now() + PANIC_RETRY_DELAY;
                    self.panicked.extend(did.map(|did| (did, until)));
                }
            }
        }
    }

    /// Starts no jobs for a while. The writers of events report that the database fails.
    fn pause(&mut self, error: &StoreError) {
        let delay = self.backoff.next_delay();
        tracing::debug!(
            %error,
            retry_in_ms = delay.as_millis() as u64,
            "the database failed; repository jobs are kept and start again later"
        );
        self.paused_until = Some(Instant::now() + delay);
    }

    fn is_paused(&self) -> bool {
        self.paused_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Starts as many jobs as there are free slots.
    async fn fill(
        &mut self,
        repositories: &Repositories,
        myself: &ActorRef<RepositoriesMessage>,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        self.panicked.retain(|_, until| Instant::now() < *until);
        for kind in JobKind::ALL {
            let job = Job::Repository(kind);
            let Some(limit) = self.limit(job) else {
                continue;
            };
            for repo in repositories.store.due(kind, now, limit).await? {
                let did = repo.did.clone();
                self.start(myself, job, did, |repositories| async move {
                    job::run(&repositories, kind, &repo).await
                });
            }
        }
        if let Some(limit) = self.limit(Job::ConfirmStatus) {
            for unconfirmed in repositories.store.unconfirmed(now, limit).await? {
                let did = unconfirmed.did.clone();
                self.start(myself, Job::ConfirmStatus, did, |repositories| async move {
                    account_status::run(&repositories, &unconfirmed).await
                });
            }
        }
        if let Some(limit) = self.limit(Job::LookUpHandle) {
            for due in repositories.store.due_handles(now, limit).await? {
                let did = due.did.clone();
                self.start(myself, Job::LookUpHandle, did, |repositories| async move {
                    handle::run(&repositories, &due).await
                });
            }
        }
        let has_no_jobs = self.running_jobs.is_empty();
        repositories
            .idleness
            .has_no_jobs
            .store(has_no_jobs, Ordering::Release);
        Ok(())
    }

    /// How many due jobs to read, so that enough are left besides those that cannot start now;
    /// `None` if no slot is free.
    fn limit(&self, job: Job) -> Option<usize> {
        let is_free = self.running(job) < job.slots();
        is_free.then(|| job.slots() + self.running_jobs.len() + self.panicked.len())
    }

    fn running(&self, job: Job) -> usize {
        self.running_jobs
            .values()
            .filter(|(_, other)| *other == job)
            .count()
    }

    fn start<F>(
        &mut self,
        myself: &ActorRef<RepositoriesMessage>,
        job: Job,
        did: Did,
        work: impl FnOnce(Arc<Repositories>) -> F,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let is_running = self
            .running_jobs
            .values()
            .any(|(running, _)| *running == did);
        let cannot_start = is_running || self.panicked.contains_key(&did);
        if cannot_start || self.running(job) >= job.slots() {
            return;
        }
        let (work, myself) = (work(self.context.shared().clone()), myself.clone());
        let started = self.jobs.spawn(async move {
            let _reports_end = JobEnded(myself);
            timeout(JOB_DEADLINE, work)
                .await
                .unwrap_or(Err(StoreError::Deadline))
        });
        self.running_jobs.insert(started.id(), (did, job));
    }
}

async fn reconcile_gaps(repositories: &Repositories) {
    match repositories.store.reconcile_gaps().await {
        Ok(reconciled) => {
            if let Some(repos) = reconciled.rechecks {
                tracing::info!(
                    repos,
                    "a gap ended; every tracked repository is compared with its host"
                );
                // Changes of identities in the gap were missed too.
                repositories.verification.identities.expire_all();
            }
            for gap in reconciled.closed {
                tracing::info!(gap = gap.id, resolution = gap.resolution, "gap closed");
            }
        }
        // The writers of events report that the database fails.
        Err(error) => {
            tracing::debug!(%error, "the database failed; open gaps are checked again in 2 s")
        }
    }
}

/// Tells the actor that a job ended. It is sent on drop, so also after a panic or a deadline.
struct JobEnded(ActorRef<RepositoriesMessage>);

impl Drop for JobEnded {
    fn drop(&mut self) {
        // If the actor stopped, its jobs ended with it.
        let _unsent = self.0.cast(RepositoriesMessage::JobEnded);
    }
}
