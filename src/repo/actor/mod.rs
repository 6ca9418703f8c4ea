//! The RepositoriesActor: runs one job for each repository that has work due.
//!
//! A job fetches a repository whose chain is broken, replays parked commits, compares a repository
//! after a gap, asks for the status of an account, or looks up its handle. `start` chooses which of
//! the due jobs start.

mod start;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::isolation::Progress;
use super::shares::Holder;
use super::{RETRY_JITTER, Repositories, account_status, handle, job};
use crate::actor::{ActorContext, Arguments};
use crate::atproto::syntax::Did;
use crate::delivery::backoff::Backoff;
use crate::net::registrable::registrable_host;
use crate::store::StoreError;
use crate::store::repo_store::{DueRepo, JobKey, JobKind};
use crate::testing::fault::Point;

/// How often the actor looks for jobs that become due by time alone.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The pause in which no jobs start after the database failed. It doubles from `DATABASE_RETRY_MIN`
/// to `DATABASE_RETRY_MAX`.
const DATABASE_RETRY_MIN: Duration = Duration::from_millis(200);
const DATABASE_RETRY_MAX: Duration = Duration::from_secs(10);
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
    jobs: JoinSet<Result<Progress, StoreError>>,
    running_jobs: HashMap<Id, Running>,
    /// Jobs that ended, which is not noted yet.
    ended: Vec<JobKey>,
    /// Those of them that did their work.
    cleared: Vec<JobKey>,
    /// Those of them that missed a deadline.
    late: Vec<JobKey>,
    /// Some jobs may be put off: once for each look by time, so that the writes are few.
    may_put_off: bool,
    /// Repositories whose task panicked, and until when no job runs for them.
    panicked: HashMap<Did, Instant>,
    /// Until when no jobs start, because the database failed.
    paused_until: Option<Instant>,
    backoff: Backoff,
}

/// A running job.
struct Running {
    did: Did,
    job: Job,
    holder: Holder,
    /// Cancelled when the job has to yield.
    yields: CancellationToken,
    is_suspected: bool,
    /// What is noted of it when it has ended.
    key: Option<JobKey>,
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

    fn key(self, did: &Did) -> JobKey {
        JobKey {
            did: did.to_string(),
            job: self.as_str().to_owned(),
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

/// The key of the job that replays the parked commits of an account.
pub(super) fn replay_key(did: &Did) -> JobKey {
    Job::Repository(JobKind::Replay).key(did)
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
            cleared: Vec::new(),
            late: Vec::new(),
            may_put_off: false,
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
            state.may_put_off = true;
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
            let ended_job = self.running_jobs.remove(&id);
            if let Some(Running { did, holder, .. }) = &ended_job {
                // The job may have found the host.
                let host = host_of(self.context.shared(), did).or_else(|| holder.host.clone());
                let shares = &self.context.shared().shares;
                shares.note(did, host.as_deref(), holder, Instant::now());
            }
            let did = ended_job.as_ref().map(|running| running.did.clone());
            let key = ended_job.and_then(|running| running.key);
            let is_late = matches!(&ended, Ok((_, Err(StoreError::Deadline))));
            let is_done = matches!(&ended, Ok((_, Ok(Progress::Done))));
            if let Some(key) = key {
                self.note_end(key, is_done, is_late);
            }
            match ended {
                Ok((_, Ok(_))) => self.backoff.reset(),
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

    fn note_end(&mut self, job: JobKey, is_done: bool, is_late: bool) {
        let isolation = &self.context.isolation;
        if is_done {
            isolation.clear_suspicion(&job);
            self.cleared.push(job.clone());
        }
        match is_late {
            true => self.late.push(job.clone()),
            false => isolation.clear_lateness(&job),
        }
        self.ended.push(job);
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
        self.end_those_over();
        repositories.isolation.load(&*repositories.store).await?;
        // The CursorActor reads it, and wakes this actor.
        if !repositories.isolation.knows_earlier_runs() {
            return Ok(());
        }
        let mut planned = Vec::new();
        // From now on no key is missed that comes.
        let awaiting = &repositories.idleness.awaits_keys;
        awaiting.store(true, Ordering::Release);
        let mut awaits_keys = false;
        for kind in JobKind::ALL {
            let job = Job::Repository(kind);
            if kind == JobKind::Backfill && repositories.is_backfill_paused() {
                continue;
            }
            if let Some(limit) = self.limit(job) {
                let limit = limit + hidden(repositories, kind);
                let mut due = repositories.store.due(kind, now, limit).await?;
                let are_all = due.len() < limit;
                if kind == JobKind::Replay {
                    let found = due.len();
                    due.retain(|repo| !awaits_key(repositories, repo));
                    awaits_keys = due.len() < found;
                }
                let work = move |repositories: Arc<Repositories>, repo, yields| async move {
                    job::run(&repositories, kind, &repo, &yields).await
                };
                let refused = self.plan_fairly(&mut planned, job, due, work);
                if !are_all {
                    self.put_off(repositories, refused).await?;
                }
            }
        }
        let job = Job::ConfirmStatus;
        if let Some(limit) = self.limit(job) {
            let due = repositories.store.unconfirmed(now, limit).await?;
            let work = |repositories: Arc<Repositories>, unconfirmed, yields| async move {
                account_status::run(&repositories, &unconfirmed, &yields).await
            };
            self.plan_fairly(&mut planned, job, due, work);
        }
        let job = Job::LookUpHandle;
        if let Some(limit) = self.limit(job) {
            let due = repositories.store.due_handles(now, limit).await?;
            let work = |repositories: Arc<Repositories>, due, yields| async move {
                handle::run(&repositories, &due, &yields).await
            };
            self.plan_fairly(&mut planned, job, due, work);
        }
        self.start(repositories, myself, planned).await?;
        awaiting.store(awaits_keys, Ordering::Release);
        let has_no_jobs = self.running_jobs.is_empty() && !awaits_keys;
        repositories
            .idleness
            .has_no_jobs
            .store(has_no_jobs, Ordering::Release);
        Ok(())
    }
}

impl Running {
    fn yield_now(&mut self) {
        self.holder.has_to_yield = true;
        self.yields.cancel();
    }
}

/// How many repositories that are due cannot start at most, because they wait for keys.
fn hidden(repositories: &Repositories, kind: JobKind) -> usize {
    match kind {
        JobKind::Replay => repositories.verification.identities.count_expected(),
        JobKind::Resync | JobKind::Recheck | JobKind::Backfill => 0,
    }
}

/// Whether the replay has to wait for a key of the PLC directory, which is being looked up. It takes no
/// slot meanwhile, so replays whose keys are known do not stand behind it.
fn awaits_key(repositories: &Repositories, repo: &DueRepo) -> bool {
    let identities = &repositories.verification.identities;
    if !repo.is_active || !repositories.isolation.allows_early_look_up(&repo.did) {
        return false;
    }
    if repo.was_verified {
        identities.assume_document(&repo.did);
    }
    identities.expect_parked(&repo.did, repo.parked)
}

/// The registrable host of an account, if it is known without a look-up.
fn host_of(repositories: &Repositories, did: &Did) -> Option<String> {
    let known = repositories.verification.identities.known(did)?;
    let url = known.answer.ok()?.pds.clone()?;
    Some(registrable_host(&url))
}

async fn reconcile_gaps(repositories: &Repositories) {
    match repositories.store.reconcile_gaps(Timestamp::now()).await {
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
