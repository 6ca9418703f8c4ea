//! The RepositoriesActor: runs one job for each repository that has work due.
//!
//! A job fetches a repository whose chain is broken, replays parked commits, compares a repository
//! after a gap, asks for the status of an account, or looks up its handle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::isolation::Suspicion;
use super::shares::{self, Holder, Refusal};
use super::{RETRY_JITTER, Repositories, account_status, handle, job, set_aside};
use crate::actor::{ActorContext, Arguments};
use crate::atproto::syntax::Did;
use crate::delivery::backoff::Backoff;
use crate::net::registrable::registrable_host;
use crate::store::StoreError;
use crate::store::repo_store::{DueHandle, DueRepo, JobKey, JobKind, RepoEvent, UnconfirmedStatus};
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
/// How many due jobs are read for each slot, so that a few accounts do not hide the others.
const DUE_FOR_EACH_SLOT: usize = 8;
/// The pause of a job that cannot start because of its own account or host, while more jobs are due
/// than were read.
const PUT_OFF: Duration = Duration::from_secs(5);
/// The most jobs that are put off at a time.
const MOST_PUT_OFF: usize = 16;

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

type Work = Box<dyn FnOnce(Arc<Repositories>) -> BoxFuture<'static, Result<(), StoreError>> + Send>;

/// A job that starts as soon as that is noted.
struct Planned {
    did: Did,
    job: Job,
    holder: Holder,
    yields: CancellationToken,
    key: JobKey,
    suspicion: Suspicion,
    work: Work,
}

/// A job that is due.
trait Due: Send + 'static {
    fn did(&self) -> &Did;
}

impl Due for DueRepo {
    fn did(&self) -> &Did {
        &self.did
    }
}

impl Due for UnconfirmedStatus {
    fn did(&self) -> &Did {
        &self.did
    }
}

impl Due for DueHandle {
    fn did(&self) -> &Did {
        &self.did
    }
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
        self.end_those_over();
        repositories.isolation.load(&*repositories.store).await?;
        let mut planned = Vec::new();
        for kind in JobKind::ALL {
            let job = Job::Repository(kind);
            if let Some(limit) = self.limit(job) {
                let due = repositories.store.due(kind, now, limit).await?;
                let are_all = due.len() < limit;
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
        let has_no_jobs = self.running_jobs.is_empty();
        repositories
            .idleness
            .has_no_jobs
            .store(has_no_jobs, Ordering::Release);
        Ok(())
    }

    /// How many due jobs to read, so that enough are left besides those that cannot start now;
    /// `None` if no slot is free, and none will be.
    fn limit(&self, job: Job) -> Option<usize> {
        let now = Instant::now();
        let mut running = self.running(job);
        let is_free = self.running(job).count() < job.slots();
        let may_be_free = is_free || running.any(|running| running.holder.may_yield(now));
        let slots = job.slots() * DUE_FOR_EACH_SLOT;
        let set_aside = self.context.isolation.count();
        may_be_free.then(|| slots + self.running_jobs.len() + self.panicked.len() + set_aside)
    }

    fn running(&self, job: Job) -> impl Iterator<Item = &Running> {
        let running = self.running_jobs.values();
        running.filter(move |running| running.job == job)
    }

    /// Ends the jobs that took as much time as one may.
    fn end_those_over(&mut self) {
        let now = Instant::now();
        for running in self.running_jobs.values_mut() {
            if running.holder.is_over(now) {
                running.yield_now();
            }
        }
    }

    /// Adds due jobs to those that start, those first whose accounts and hosts took the least time so
    /// far. If one cannot start, a job that has had its turn yields. Returns the accounts whose jobs
    /// cannot start because of what the accounts or their hosts have taken.
    fn plan_fairly<D: Due, F>(
        &mut self,
        planned: &mut Vec<Planned>,
        job: Job,
        due: Vec<D>,
        work: impl Fn(Arc<Repositories>, D, CancellationToken) -> F + Copy + Send + 'static,
    ) -> Vec<Did>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let repositories = self.context.shared().clone();
        let now = Instant::now();
        let mut due: Vec<_> = due
            .into_iter()
            .filter(|due| self.can_start(planned, due.did()))
            .map(|due| {
                let host = host_of(&repositories, due.did());
                let rank = repositories.shares.rank(due.did(), host.as_deref(), now);
                (rank, host, due)
            })
            .collect();
        due.sort_by_key(|(rank, ..)| *rank);
        let mut refused = Vec::new();
        for (_, host, due) in due {
            let did = due.did().clone();
            let key = job.key(&did);
            let Some(suspicion) = self.suspicion(planned, &key) else {
                continue;
            };
            let holder = repositories.shares.holder(&did, host, now);
            match shares::admit(&self.holders(planned, job), &holder, job.slots()) {
                Ok(()) => {
                    let yields = CancellationToken::new();
                    let yields_of_job = yields.clone();
                    planned.push(Planned {
                        did,
                        job,
                        holder,
                        yields,
                        key,
                        suspicion,
                        work: Box::new(move |repositories| {
                            work(repositories, due, yields_of_job).boxed()
                        }),
                    });
                }
                Err(refusal) => {
                    self.make_room(job, &holder, refusal);
                    if refusal != Refusal::Full {
                        refused.push(did);
                    }
                }
            }
        }
        refused
    }

    /// Whether no job for the account runs or starts, and none has panicked lately.
    fn can_start(&self, planned: &[Planned], did: &Did) -> bool {
        let mut running = self.running_jobs.values();
        !running.any(|running| running.did == *did)
            && !planned.iter().any(|planned| planned.did == *did)
            && !self.panicked.contains_key(did)
    }

    /// Whether the job has ended runs of the process; `None` if it does not start now. Of the
    /// suspected jobs one runs at a time.
    fn suspicion(&self, planned: &[Planned], key: &JobKey) -> Option<Suspicion> {
        let suspicion = self.context.isolation.suspicion(key, Timestamp::now());
        let is_other_suspected = self.running_jobs.values().any(|other| other.is_suspected)
            || planned
                .iter()
                .any(|other| other.suspicion == Suspicion::Suspected);
        let must_wait = suspicion == Suspicion::Suspected && is_other_suspected;
        (!must_wait && suspicion != Suspicion::SetAside).then_some(suspicion)
    }

    /// The holders of the slots of `job`, with those of the jobs that start.
    fn holders<'a>(&'a self, planned: &'a [Planned], job: Job) -> Vec<&'a Holder> {
        let planned = planned.iter().filter(|planned| planned.job == job);
        self.running(job)
            .map(|running| &running.holder)
            .chain(planned.map(|planned| &planned.holder))
            .collect()
    }

    /// Has a job that has had its turn yield to `refused`.
    fn make_room(&mut self, job: Job, refused: &Holder, refusal: Refusal) {
        let running = self.running_jobs.iter();
        let running = running.filter(|(_, running)| running.job == job);
        let running = running.map(|(id, running)| (*id, &running.holder));
        let chosen = shares::to_yield(running, refused, refusal, Instant::now());
        if let Some(running) = chosen.and_then(|id| self.running_jobs.get_mut(&id)) {
            running.yield_now();
        }
    }

    /// Puts some jobs off that cannot start because of what their accounts or hosts have taken, so
    /// that they do not hide those behind them.
    async fn put_off(
        &mut self,
        repositories: &Repositories,
        refused: Vec<Did>,
    ) -> Result<(), StoreError> {
        if refused.is_empty() || !std::mem::take(&mut self.may_put_off) {
            return Ok(());
        }
        for did in refused.iter().take(MOST_PUT_OFF) {
            let until = super::in_future(PUT_OFF.mul_f64(1.0 + RETRY_JITTER * fastrand::f64()));
            repositories
                .note(did, RepoEvent::Reschedule { until })
                .await?;
        }
        Ok(())
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
            holder,
            yields,
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
                holder,
                yields,
                is_suspected: suspicion == Suspicion::Suspected,
                key: is_over.then_some(key),
            },
        );
    }
}

impl Running {
    fn yield_now(&mut self) {
        self.holder.has_to_yield = true;
        self.yields.cancel();
    }
}

/// The registrable host of an account, if it is known without a look-up.
fn host_of(repositories: &Repositories, did: &Did) -> Option<String> {
    let known = repositories.verification.identities.known(did)?;
    let url = known.answer.ok()?.pds.clone()?;
    Some(registrable_host(&url))
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
