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

use futures_util::future::{BoxFuture, FutureExt};

use super::isolation::{Isolation, Suspicion};
use super::{RETRY_JITTER, Repositories, account_status, handle, job, set_aside};
use crate::actor::{ActorContext, Arguments};
use crate::atproto::syntax::Did;
use crate::delivery::backoff::Backoff;
use crate::store::StoreError;
use crate::store::repo_store::{JobKey, JobKind};
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
    running_jobs: HashMap<Id, Running>,
    /// Jobs that came to an end, which is not noted yet.
    ended: Vec<JobKey>,
    /// Those of them that missed a deadline.
    late: Vec<JobKey>,
    /// Repositories whose task panicked, and until when no job runs for them.
    panicked: HashMap<Did, Instant>,
    /// Until when no jobs start, because the database failed.
    paused_until: Option<Instant>,
    backoff: Backoff,
}

/// A job that is under way.
struct Running {
    did: Did,
    job: Job,
    is_suspected: bool,
    /// What is noted of it when it has ended.
    key: Option<JobKey>,
}

type Work = Box<dyn FnOnce(Arc<Repositories>) -> BoxFuture<'static, Result<(), StoreError>> + Send>;

/// A job that starts as soon as that is noted.
struct Planned {
    did: Did,
    job: Job,
    key: JobKey,
    suspicion: Suspicion,
    work: Work,
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
    /// The text of the column `job`.
    fn as_str(self) -> &'static str {
        match self {
            Self::Repository(JobKind::Replay) => "replay",
            Self::Repository(JobKind::Resync | JobKind::Backfill) => "fetch",
            Self::Repository(JobKind::Recheck) => "recheck",
            Self::ConfirmStatus => "status",
            Self::LookUpHandle => "handle",
        }
    }

    fn kind(self) -> Option<JobKind> {
        match self {
            Self::Repository(kind) => Some(kind),
            Self::ConfirmStatus | Self::LookUpHandle => None,
        }
    }

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
            ended: Vec::new(),
            late: Vec::new(),
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
            let running = self.running_jobs.remove(&id);
            let did = running.as_ref().map(|running| running.did.clone());
            let key = running.and_then(|running| running.key);
            let is_late = matches!(&ended, Ok((_, Err(StoreError::Deadline))));
            if let Some(key) = &key {
                self.context.isolation.clear(key, is_late);
                self.late.extend(is_late.then(|| key.clone()));
            }
            self.ended.extend(key);
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
        repositories.isolation.load(&*repositories.store).await?;
        let isolation = &repositories.isolation;
        let mut planned = Vec::new();
        for kind in JobKind::ALL {
            let job = Job::Repository(kind);
            let Some(limit) = self.limit(job, isolation) else {
                continue;
            };
            for repo in repositories.store.due(kind, now, limit).await? {
                let did = repo.did.clone();
                self.plan(
                    &mut planned,
                    isolation,
                    job,
                    did,
                    move |repositories| async move { job::run(&repositories, kind, &repo).await },
                );
            }
        }
        if let Some(limit) = self.limit(Job::ConfirmStatus, isolation) {
            for unconfirmed in repositories.store.unconfirmed(now, limit).await? {
                let did = unconfirmed.did.clone();
                let job = Job::ConfirmStatus;
                self.plan(
                    &mut planned,
                    isolation,
                    job,
                    did,
                    move |repositories| async move {
                        account_status::run(&repositories, &unconfirmed).await
                    },
                );
            }
        }
        if let Some(limit) = self.limit(Job::LookUpHandle, isolation) {
            for due in repositories.store.due_handles(now, limit).await? {
                let did = due.did.clone();
                let job = Job::LookUpHandle;
                self.plan(
                    &mut planned,
                    isolation,
                    job,
                    did,
                    |repositories| async move { handle::run(&repositories, &due).await },
                );
            }
        }
        self.start(repositories, myself, planned).await?;
        let has_no_jobs = self.running_jobs.is_empty();
        repositories
            .idleness
            .has_no_jobs
            .store(has_no_jobs, Ordering::Release);
        Ok(())
    }

    /// How many due jobs to read, so that enough are left besides those that cannot start now;
    /// `None` if no slot is free.
    fn limit(&self, job: Job, isolation: &Isolation) -> Option<usize> {
        let is_free = self.running(job) < job.slots();
        is_free.then(|| {
            job.slots() + self.running_jobs.len() + self.panicked.len() + isolation.count()
        })
    }

    fn running(&self, job: Job) -> usize {
        self.running_jobs
            .values()
            .filter(|running| running.job == job)
            .count()
    }

    /// Adds a job to those that start, unless one for the same account runs, or no slot is free. Of
    /// the suspected jobs one runs at a time.
    fn plan<F>(
        &self,
        planned: &mut Vec<Planned>,
        isolation: &Isolation,
        job: Job,
        did: Did,
        work: impl FnOnce(Arc<Repositories>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let is_running = self.running_jobs.values().any(|other| other.did == did)
            || planned.iter().any(|other| other.did == did);
        let of_kind = planned.iter().filter(|other| other.job == job).count();
        let has_slot = self.running(job) + of_kind < job.slots();
        if is_running || !has_slot || self.panicked.contains_key(&did) {
            return;
        }
        let key = JobKey {
            did: did.to_string(),
            job: job.as_str().to_owned(),
        };
        let suspicion = isolation.suspicion(&key, Timestamp::now());
        let is_other_suspected = self.running_jobs.values().any(|other| other.is_suspected)
            || planned
                .iter()
                .any(|other| other.suspicion == Suspicion::Suspected);
        let must_wait = suspicion == Suspicion::Suspected && is_other_suspected;
        if must_wait || suspicion == Suspicion::SetAside {
            return;
        }
        planned.push(Planned {
            did,
            job,
            key,
            suspicion,
            work: Box::new(|repositories| work(repositories).boxed()),
        });
    }

    /// Notes which jobs start and which have ended, and starts them. A suspected job is noted when it
    /// begins.
    async fn start(
        &mut self,
        repositories: &Repositories,
        myself: &ActorRef<RepositoriesMessage>,
        planned: Vec<Planned>,
    ) -> Result<(), StoreError> {
        let unsuspected = planned
            .iter()
            .filter(|planned| planned.suspicion == Suspicion::None);
        let started: Vec<JobKey> = unsuspected.map(|planned| planned.key.clone()).collect();
        if !started.is_empty() || !self.ended.is_empty() {
            repositories.store.note_jobs(&started, &self.ended).await?;
            repositories
                .isolation
                .note_late(std::mem::take(&mut self.late));
            self.ended.clear();
        }
        for planned in planned {
            self.spawn(myself, planned);
        }
        Ok(())
    }

    fn spawn(&mut self, myself: &ActorRef<RepositoriesMessage>, planned: Planned) {
        let Planned {
            did,
            job,
            key,
            suspicion,
            work,
        } = planned;
        let (repositories, myself) = (self.context.shared().clone(), myself.clone());
        let (key_of_job, did_of_job) = (key.clone(), did.clone());
        let work = async move {
            let _reports_end = JobEnded(myself);
            let work = async {
                match suspicion {
                    Suspicion::Suspected => {
                        let work = work(repositories.clone());
                        let store = &*repositories.store;
                        repositories
                            .isolation
                            .run_alone(store, key_of_job, work)
                            .await
                    }
                    Suspicion::Condemned(offence) => {
                        let kind = job.kind();
                        set_aside::set_aside(&repositories, &key_of_job, &did_of_job, kind, offence)
                            .await
                    }
                    Suspicion::None | Suspicion::SetAside => work(repositories.clone()).await,
                }
            };
            timeout(JOB_DEADLINE, work)
                .await
                .unwrap_or(Err(StoreError::Deadline))
        };
        let started = self.jobs.spawn(work);
        // A job that is set aside stays noted. Of a replay only one parked commit is.
        let is_over =
            !matches!(suspicion, Suspicion::Condemned(_)) || job.kind() == Some(JobKind::Replay);
        self.running_jobs.insert(
            started.id(),
            Running {
                did,
                job,
                is_suspected: suspicion == Suspicion::Suspected,
                key: is_over.then_some(key),
            },
        );
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
