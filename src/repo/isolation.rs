//! Jobs that may be why earlier runs ended without a word, and jobs that are never done in time.
//!
//! A job works on what others wrote: a parked commit, a repository, a document, a page of a search.
//! One that ends the process leaves no trace in memory. So each job is noted in the tables before it
//! starts (`jobs_in_progress`). What is left there of a run that ended without a word is suspected.
//! Suspected jobs are done one at a time, while no frame is read alone; a job at which several runs
//! ended is set aside.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::atproto::syntax::Did;
use crate::delivery::ledger::DELIVERY_FAILURE_LIMIT;
use crate::store::StoreError;
use crate::store::repo_store::{JobKey, RepoStore, SuspectedJob};

/// A job is set aside after so many runs ended while it was in progress: once among others, and then
/// as often alone as a frame.
pub const CONDEMNED_AFTER: u32 = 1 + DELIVERY_FAILURE_LIMIT;
/// How long a suspected job keeps frames from being read alone. One that has gone so far does not end
/// the process as a rule, and may wait for a slow host.
const ALONE_FOR: Duration = Duration::from_secs(30);

/// How a job ended that met no error of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It did its work.
    Done,
    /// It waits for something, or it failed. It may not have come to what ends the process: whether it
    /// does, its account and its host can decide. So it stays suspected.
    DueAgain,
}

/// Which jobs are suspected or late, and the lock of what is handled alone.
#[derive(Debug, Default)]
pub struct Isolation {
    /// How often in a row a job missed a deadline while the database answered others.
    late: Mutex<HashMap<JobKey, u32>>,
    /// `None` until they were read.
    suspects: Mutex<Option<HashMap<JobKey, SuspectedJob>>>,
    /// Held while they are read, since several actors have jobs.
    loading: tokio::sync::Mutex<()>,
    alone: Arc<tokio::sync::Mutex<()>>,
    /// Whether several runs ended without a word before this one. Unset until that was read.
    is_crash_loop: OnceLock<bool>,
}

/// What is known of a job that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    None,
    /// It is done while no other suspected job is.
    Suspected,
    /// It is not done, because of its history.
    Condemned(Offence),
    /// It is not done for now.
    SetAside,
}

/// Why a job is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    /// So many runs ended without a word while it was in progress.
    EndsRuns(u32),
    /// It missed a deadline in so many attempts, while the database answered others.
    IsLate(u32),
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndsRuns(runs) => write!(f, "{runs} runs ended without a word at this job"),
            Self::IsLate(attempts) => write!(f, "missed its deadline in {attempts} attempts"),
        }
    }
}

impl Isolation {
    /// Held by the one thing that is handled alone: a frame, or a suspected job.
    pub fn alone(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.alone.clone()
    }

    /// Reads the suspected jobs, once in a run.
    pub(super) async fn load(&self, store: &dyn RepoStore) -> Result<(), StoreError> {
        let _loading = self.loading.lock().await;
        if self.suspects().is_some() {
            return Ok(());
        }
        let jobs = store.begin_jobs().await?;
        if !jobs.is_empty() {
            tracing::warn!(
                jobs = jobs.len(),
                "jobs were in progress when a run ended without a word (killed, out of memory, or power lost); doing them one at a time"
            );
        }
        let jobs = jobs.into_iter().map(|job| (job.key.clone(), job));
        *self.suspects() = Some(jobs.collect());
        Ok(())
    }

    pub(super) fn suspicion(&self, key: &JobKey, now: Timestamp) -> Suspicion {
        let late = self.late().get(key).copied().unwrap_or_default();
        let suspects = self.suspects();
        let job = suspects.as_ref().and_then(|suspects| suspects.get(key));
        match job.map(|job| (job.runs, job.set_aside_until)) {
            Some((_, Some(until))) if now < until => Suspicion::SetAside,
            _ if late >= DELIVERY_FAILURE_LIMIT => Suspicion::Condemned(Offence::IsLate(late)),
            Some((runs, None)) if runs >= CONDEMNED_AFTER => {
                Suspicion::Condemned(Offence::EndsRuns(runs))
            }
            Some(_) => Suspicion::Suspected,
            None => Suspicion::None,
        }
    }

    /// Whether the job may be why a run ended, or missed a deadline.
    pub(super) fn is_in_doubt(&self, key: &JobKey) -> bool {
        let is_late = self.late().contains_key(key);
        let suspects = self.suspects();
        is_late
            || suspects
                .as_ref()
                .is_some_and(|suspects| suspects.contains_key(key))
    }

    /// Notes whether several runs ended without a word before this one.
    pub fn note_crash_loop(&self, is_crash_loop: bool) {
        // The answer is the same for the whole run.
        let _first = self.is_crash_loop.set(is_crash_loop);
    }

    /// Whether it is known how the runs before this one ended.
    pub(super) fn knows_earlier_runs(&self) -> bool {
        self.is_crash_loop.get().is_some()
    }

    /// Whether the account may be looked up before a job is noted that needs it. If the answer of a
    /// server ends the process, only the note says which account it was.
    pub(crate) fn allows_early_look_up(&self, did: &Did) -> bool {
        let is_accused = || {
            let suspects = self.suspects();
            let mut keys = suspects.iter().flat_map(HashMap::keys);
            keys.any(|key| key.did == did.as_str())
        };
        self.is_crash_loop.get() == Some(&false) && !is_accused()
    }

    /// The jobs missed a deadline, and the database answers.
    pub(super) fn note_late(&self, jobs: Vec<JobKey>) {
        let mut late = self.late();
        for key in jobs {
            *late.entry(key).or_default() += 1;
        }
    }

    /// How many jobs are suspected or set aside.
    pub(super) fn count(&self) -> usize {
        self.suspects().as_ref().map_or(0, HashMap::len)
    }

    /// The job ended within its deadlines.
    pub(super) fn clear_lateness(&self, job: &JobKey) {
        self.late().remove(job);
    }

    /// The job did its work, so it does not end the process.
    pub(super) fn clear_suspicion(&self, job: &JobKey) {
        if let Some(suspects) = self.suspects().as_mut() {
            suspects.remove(job);
        }
    }

    /// The job is not done before `until`.
    pub(super) async fn set_aside(
        &self,
        store: &dyn RepoStore,
        key: &JobKey,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        store.set_aside(key, until).await?;
        self.late().remove(key);
        if let Some(suspects) = self.suspects().as_mut() {
            let job = suspects.entry(key.clone()).or_insert(SuspectedJob {
                key: key.clone(),
                runs: 0,
                set_aside_until: None,
            });
            job.set_aside_until = Some(until);
        }
        Ok(())
    }

    /// Does `work`, a suspected job, and notes it before. For a while no frame is read alone.
    pub(super) async fn run_alone<T>(
        &self,
        store: &dyn RepoStore,
        key: JobKey,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let alone: OwnedMutexGuard<()> = self.alone().lock_owned().await;
        store.note_jobs(&[key], &[], &[]).await?;
        let mut work = std::pin::pin!(work);
        match timeout(ALONE_FOR, &mut work).await {
            Ok(done) => done,
            Err(_elapsed) => {
                drop(alone);
                work.await
            }
        }
    }

    fn late(&self) -> MutexGuard<'_, HashMap<JobKey, u32>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspects(&self) -> MutexGuard<'_, Option<HashMap<JobKey, SuspectedJob>>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job on ann was in progress when a run ended.
    fn isolation() -> Isolation {
        let key = JobKey {
            did: "did:plc:ann".to_owned(),
            job: "replay".to_owned(),
        };
        let job = SuspectedJob {
            key: key.clone(),
            runs: 1,
            set_aside_until: None,
        };
        let isolation = Isolation::default();
        *isolation.suspects() = Some([(key, job)].into());
        isolation
    }

    fn allowed(isolation: &Isolation) -> [bool; 2] {
        ["did:plc:ann", "did:plc:bob"]
            .map(|did| isolation.allows_early_look_up(&Did::parse(did).unwrap()))
    }

    /// Otherwise an answer that ends the process would end every run, and nothing would show whose it
    /// is. Holds invariant 5.8.
    #[test]
    fn what_may_have_ended_runs_is_looked_up_only_by_jobs() {
        let isolation = isolation();
        assert_eq!(allowed(&isolation), [false, false], "it is not known yet");
        assert!(!isolation.knows_earlier_runs());
        isolation.note_crash_loop(false);
        assert!(isolation.knows_earlier_runs());
        assert_eq!(allowed(&isolation), [false, true]);
    }

    #[test]
    fn in_a_crash_loop_all_is_looked_up_only_by_jobs() {
        let isolation = isolation();
        isolation.note_crash_loop(true);
        assert_eq!(allowed(&isolation), [false, false]);
    }
}
