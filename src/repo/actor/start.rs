//! Which of the due jobs start: by free slots, by what accounts and hosts have taken, and not those that
//! end the process.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use ractor::ActorRef;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Job, RepositoriesMessage, RepositoriesState, Running, host_of};
use crate::atproto::syntax::Did;
use crate::repo::isolation::{Progress, Suspicion};
use crate::repo::shares::{self, Holder, Refusal};
use crate::repo::{RETRY_JITTER, Repositories, in_future, set_aside};
use crate::store::StoreError;
use crate::store::repo_store::{
    DueHandle, DueRepo, JobKey, JobKind, RepoEvent, UnconfirmedStatus, WaitsFor,
};

/// The deadline of a job. Each step of a job has a deadline of its own; this one is a safeguard.
const JOB_DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// How many due jobs are read for each slot, so that a few accounts do not hide the others.
const DUE_FOR_EACH_SLOT: usize = 8;
/// The pause of a job that cannot start because of its own account or host, while more jobs are due
/// than were read.
const PUT_OFF: Duration = Duration::from_secs(5);
/// The most jobs that are put off at a time.
const MOST_PUT_OFF: usize = 16;

type Work =
    Box<dyn FnOnce(Arc<Repositories>) -> BoxFuture<'static, Result<Progress, StoreError>> + Send>;

/// A job that starts as soon as that is noted.
pub(super) struct Planned {
    did: Did,
    job: Job,
    holder: Holder,
    yields: CancellationToken,
    key: JobKey,
    suspicion: Suspicion,
    work: Work,
}

/// A job that is due.
pub(super) trait Due: Send + 'static {
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

impl RepositoriesState {
    /// How many due jobs to read, so that enough are left besides those that cannot start now;
    /// `None` if no slot is free, and none will be.
    pub(super) fn limit(&self, job: Job) -> Option<usize> {
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
    pub(super) fn end_those_over(&mut self) {
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
    pub(super) fn plan_fairly<D: Due, F>(
        &mut self,
        planned: &mut Vec<Planned>,
        job: Job,
        due: Vec<D>,
        work: impl Fn(Arc<Repositories>, D, CancellationToken) -> F + Copy + Send + 'static,
    ) -> Vec<Did>
    where
        F: Future<Output = Result<Progress, StoreError>> + Send + 'static,
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
    pub(super) async fn put_off(
        &mut self,
        repositories: &Repositories,
        refused: Vec<Did>,
    ) -> Result<(), StoreError> {
        if refused.is_empty() || !std::mem::take(&mut self.may_put_off) {
            return Ok(());
        }
        for did in refused.iter().take(MOST_PUT_OFF) {
            let waits_for = Some(WaitsFor::Account);
            let until = in_future(PUT_OFF.mul_f64(1.0 + RETRY_JITTER * fastrand::f64()));
            repositories
                .note(did, RepoEvent::Reschedule { until, waits_for })
                .await?;
        }
        Ok(())
    }

    /// Notes which jobs start and which have ended, and starts them. A suspected job is noted when it
    /// begins.
    pub(super) async fn start(
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
            let store = &repositories.store;
            store
                .note_jobs(&started, &self.ended, &self.cleared)
                .await?;
            repositories
                .isolation
                .note_late(std::mem::take(&mut self.late));
            self.ended.clear();
            self.cleared.clear();
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
                            .map(|()| Progress::Done)
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

/// Tells the actor that a job ended. It is sent on drop, so also after a panic or a deadline.
struct JobEnded(ActorRef<RepositoriesMessage>);

impl Drop for JobEnded {
    fn drop(&mut self) {
        // If the actor stopped, its jobs ended with it.
        let _unsent = self.0.cast(RepositoriesMessage::JobEnded);
    }
}
