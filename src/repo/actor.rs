//! The RepositoriesActor: runs one job for each repository that has work due.
//!
//! A job fetches a repository whose chain is broken, replays parked commits, compares a repository
//! after a gap, or asks an account's host for its status.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use super::{RETRY_JITTER, Repositories, job, unconfirmed};
use crate::actor::{ActorContext, Arguments};
use crate::atproto::syntax::Did;
use crate::delivery::backoff::Backoff;
use crate::store::StoreError;
use crate::store::repos::JobKind;
use crate::testing::fault::Point;

/// How often it is looked for what has come due by time alone.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long nobody is seen to while the tables take nothing; it doubles from the first to the second.
const REST_MIN: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(10);
/// All that is waited for in a job has a deadline of its own. Should that ever not be so, here it ends.
const JOB_DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// How long a repository is left alone at which a job broke off.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(60);

/// See the module.
pub struct RepositoriesActor;

#[derive(Debug)]
pub enum RepositoriesMessage {
    /// There may be something to see to.
    Wake,
    /// A job has ended.
    JobEnded,
    /// Time has passed.
    Tick,
}

pub struct RepositoriesState {
    context: ActorContext<Repositories>,
    jobs: JoinSet<Result<(), StoreError>>,
    running_jobs: HashMap<Id, (Did, Job)>,
    /// Repositories at which a job broke off, and until when they are left alone.
    panicked: HashMap<Did, Instant>,
    /// Until when the tables are left alone, which took nothing.
    rest_until: Option<Instant>,
    backoff: Backoff,
}

/// What a job is about. Each kind has slots of its own, so that none of them holds up the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Repository(JobKind),
    /// Whether an account is really gone.
    ConfirmStatus,
}

impl Job {
    /// So many jobs of this kind are running at once.
    fn slots(self) -> usize {
        match self {
            Self::Repository(JobKind::Replay | JobKind::Resync) => 8,
            Self::Repository(JobKind::Recheck | JobKind::Backfill) | Self::ConfirmStatus => 4,
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
            rest_until: None,
            backoff: Backoff::try_new(REST_MIN, REST_MAX, RETRY_JITTER, fastrand::Rng::new())?,
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
        // A call that comes from now on is a new one. So is one that a predecessor did not answer.
        repositories
            .idleness
            .is_called
            .store(false, Ordering::Release);
        state.context.pass(Point::RepositoriesMessage).await?;
        state.reap();
        if let RepositoriesMessage::Tick = message {
            reconcile_gaps(&repositories).await;
        }
        if state.is_resting() {
            return Ok(());
        }
        if let Err(error) = state.fill(&repositories, &myself).await {
            state.rest(&error);
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
                Ok((_, Err(error))) => self.rest(&error),
                Err(error) => {
                    tracing::error!(did = did.as_ref().map(Did::as_str), %error, "a job broke off");
                    let until = Instant::now() + PANIC_RETRY_DELAY;
                    self.panicked.extend(did.map(|did| (did, until)));
                }
            }
        }
    }

    /// Leaves the tables alone for a while. That they take nothing is told by those who write events.
    fn rest(&mut self, error: &StoreError) {
        tracing::debug!(%error, "the database does not let repositories be seen to");
        self.rest_until = Some(Instant::now() + self.backoff.next_delay());
    }

    fn is_resting(&self) -> bool {
        self.rest_until.is_some_and(|until| Instant::now() < until)
    }

    /// Begins as many jobs as there are slots for.
    async fn fill(
        &mut self,
        repositories: &Repositories,
        myself: &ActorRef<RepositoriesMessage>,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        self.panicked.retain(|_, until| Instant::now() < *until);
        for urgency in JobKind::ALL {
            let job = Job::Repository(urgency);
            let Some(limit) = self.limit(job) else {
                continue;
            };
            for repo in repositories.store.due(urgency, now, limit).await? {
                let did = repo.did.clone();
                self.begin(myself, job, did, |repositories| async move {
                    job::run(&repositories, urgency, &repo).await
                });
            }
        }
        if let Some(limit) = self.limit(Job::ConfirmStatus) {
            for unconfirmed in repositories.store.unconfirmed(now, limit).await? {
                let did = unconfirmed.did.clone();
                self.begin(myself, Job::ConfirmStatus, did, |repositories| async move {
                    unconfirmed::run(&repositories, &unconfirmed).await
                });
            }
        }
        let is_settled = self.running_jobs.is_empty();
        repositories
            .idleness
            .is_settled
            .store(is_settled, Ordering::Release);
        Ok(())
    }

    /// How many to ask for, so that there are enough beside those that are left alone; `None` where no
    /// place is free.
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

    fn begin<F>(
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
            .any(|(running_jobs, _)| *running_jobs == did);
        let is_left_alone = is_running || self.panicked.contains_key(&did);
        if is_left_alone || self.running(job) >= job.slots() {
            return;
        }
        let (work, myself) = (work(self.context.shared().clone()), myself.clone());
        let begun = self.jobs.spawn(async move {
            let _told = JobEnded(myself);
            timeout(JOB_DEADLINE, work)
                .await
                .unwrap_or(Err(StoreError::Deadline))
        });
        self.running_jobs.insert(begun.id(), (did, job));
    }
}

async fn reconcile_gaps(repositories: &Repositories) {
    match repositories.store.reconcile_gaps().await {
        Ok(reconciled) => {
            if let Some(repos) = reconciled.rechecks {
                tracing::info!(repos, "comparing every tracked repository after a gap");
                // What was said of identities meanwhile was missed too.
                repositories.verification.identities.expire_all();
            }
            for gap in reconciled.closed {
                tracing::info!(gap = gap.id, resolution = gap.resolution, "closed a gap");
            }
        }
        // That the database takes nothing is told by those who write events to it.
        Err(error) => tracing::debug!(%error, "cannot look for gaps"),
    }
}

/// Tells the actor of the end of a job, whatever end it comes to.
struct JobEnded(ActorRef<RepositoriesMessage>);

impl Drop for JobEnded {
    fn drop(&mut self) {
        // Where nobody is there, the jobs have gone with it.
        let _unheard = self.0.cast(RepositoriesMessage::JobEnded);
    }
}
