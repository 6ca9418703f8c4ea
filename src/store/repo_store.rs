//! The tables as the jobs on repositories use them: which repositories are due for a replay, a
//! resync, a recheck or a backfill, and the results.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;

pub use super::plan::{
    DiscoveryPage, DueHandle, HandleAnswer, HostStatus, ParkedCommit, Replay, RepoChange,
    RepoEvent, Resync, ResyncCause, ResyncFailure, Search, SnapshotPart, UnconfirmedStatus,
    WaitsFor,
};
use super::{StoreError, Written};
use crate::atproto::syntax::Did;
use crate::model::{Judgement, RepoCounts};

/// The tables of whole repositories. Each call is one transaction, like a call to
/// [`Store`](super::Store).
pub trait RepoStore: Send + Sync + 'static {
    /// The DIDs of the next tracked repositories behind `did`, in order. There are none at the end.
    fn tracked_behind<'a>(&'a self, did: &'a str)
    -> BoxFuture<'a, Result<Vec<String>, StoreError>>;

    /// The DIDs of all tracked repositories.
    fn tracked(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async {
            let mut all = Vec::new();
            loop {
                let last = all.last().map_or("", String::as_str);
                let page = self.tracked_behind(last).await?;
                if page.is_empty() {
                    return Ok(all);
                }
                all.extend(page);
            }
        })
    }

    /// Returns up to `limit` repositories that are due now for this kind of job. Those that were
    /// never tried come first.
    fn due(
        &self,
        kind: JobKind,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueRepo>, StoreError>>;

    /// Applies a change to a repository or an account.
    fn change<'a>(&'a self, change: RepoChange<'a>) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// Has up to `count` repositories compared with their hosts, which are chosen at random among those
    /// that are whole and of which nothing is due. Returns how many there are.
    fn recheck_sample(&self, count: u32) -> BoxFuture<'_, Result<u64, StoreError>> {
        let _none = count;
        async { Ok(0) }.boxed()
    }

    /// Counts the attempts to fetch a repository since then.
    fn resyncs_since<'a>(
        &'a self,
        did: &'a Did,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<RecentResyncs, StoreError>>;

    /// Reads records of a repository, tombstones included, in the order of their paths: after
    /// `after`, up to `through`, at most `limit`.
    fn held<'a>(&'a self, range: HeldRange<'a>) -> BoxFuture<'a, Result<Vec<Held>, StoreError>>;

    /// The lengths of the oldest parked frames of a repository, at most `limit`.
    fn parked_lengths<'a>(
        &'a self,
        did: &'a Did,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<usize>, StoreError>>;

    /// The oldest parked frames of a repository in their order, at most `limit`.
    fn parked<'a>(
        &'a self,
        did: &'a Did,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedCommit>, StoreError>>;

    /// The oldest parked frame of a repository.
    fn first_parked<'a>(
        &'a self,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Option<ParkedCommit>, StoreError>> {
        let first = async { Ok(self.parked(did, 1).await?.into_iter().next()) };
        first.boxed()
    }

    /// The bytes of all parked frames that wait for an answer of the PLC directory.
    fn bytes_awaiting_directory(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Marks every tracked repository for a recheck if a gap has ended. Closes the gaps whose
    /// rechecks are done.
    fn reconcile_gaps(&self, now: Timestamp) -> BoxFuture<'_, Result<Reconciled, StoreError>>;

    /// Returns tracked accounts with an unconfirmed status whose hosts are due to be asked.
    fn unconfirmed(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<UnconfirmedStatus>, StoreError>>;

    /// Returns tracked accounts whose handle has to be taken from their documents now.
    fn due_handles(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueHandle>, StoreError>>;

    /// Starts a discovery for each of these searches that has none. `anew` also restarts those that
    /// are over. Running discoveries that find accounts in another way are removed.
    fn begin_discovery<'a>(
        &'a self,
        searches: &'a [Search],
        anew: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Records that the next page of a discovery could not be fetched. `is_unsupported`: the server
    /// does not have the method, so nothing waits for the discovery.
    fn note_failed_page<'a>(
        &'a self,
        search: &'a Search,
        error: &'a str,
        is_unsupported: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// All discoveries, running or over.
    fn discoveries(&self) -> BoxFuture<'_, Result<Vec<Discovery>, StoreError>>;

    /// Returns the jobs that were in progress when earlier runs ended without a word. Must be called
    /// once in a run, before its first job.
    fn begin_jobs(&self) -> BoxFuture<'_, Result<Vec<SuspectedJob>, StoreError>>;

    /// Records that the jobs `started` begin now, that the jobs `ended` are no longer in progress,
    /// however they ended, and that the jobs `cleared` are no longer suspected.
    fn note_jobs<'a>(
        &'a self,
        started: &'a [JobKey],
        ended: &'a [JobKey],
        cleared: &'a [JobKey],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Records that a job is not tried before `until`.
    fn set_aside<'a>(
        &'a self,
        job: &'a JobKey,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Records that no job is in progress, at the end of a run.
    fn end_jobs(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Counts repositories by state, and the progress of the backfill.
    fn repo_counts(&self) -> BoxFuture<'_, Result<RepoCounts, StoreError>>;
}

/// The kinds of jobs, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobKind {
    /// Apply the parked commits.
    Replay,
    /// Fetch it, because the stream showed that something is missing.
    Resync,
    /// Ask its host whether it is still at the known head.
    Recheck,
    /// Fetch it for a backfill.
    Backfill,
}

impl JobKind {
    pub const ALL: [Self; 4] = [Self::Replay, Self::Resync, Self::Recheck, Self::Backfill];
}

/// A job on an account, a repository or a search.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// The account; of a page of a search the name of the search.
    pub did: String,
    /// What is done: the text of the column `job`.
    pub job: String,
}

/// A job that was in progress when runs ended without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectedJob {
    pub key: JobKey,
    /// How many runs ended so since it last came to an end.
    pub runs: u32,
    /// It is not tried before.
    pub set_aside_until: Option<Timestamp>,
}

/// A repository with a job due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRepo {
    pub did: Did,
    /// Its account is active, as far as the tables know.
    pub is_active: bool,
    /// The rev of its head, if it was verified. Without a check it bounds nothing.
    pub rev: Option<String>,
    /// The time of the event that set its account's status, if any.
    pub status_as_of: Option<Timestamp>,
    pub cause: Option<ResyncCause>,
    /// The gap that requires a recheck, if any; 0 stands for a refused commit.
    pub recheck_cause: Option<i64>,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// Commits of it were verified, so its account had a DID document.
    pub was_verified: bool,
    /// The number of its parked commits.
    pub parked: u64,
}

/// Recent attempts to fetch a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentResyncs {
    pub count: u32,
    /// The bytes that the successful ones fetched.
    pub bytes: u64,
    pub last_ended_at: Option<Timestamp>,
}

/// A range of a repository's records.
#[derive(Clone, Copy, Debug)]
pub struct HeldRange<'a> {
    pub did: &'a Did,
    /// A path (`collection/rkey`); empty means the beginning.
    pub after: &'a str,
    /// A path; `None` means the end.
    pub through: Option<&'a str>,
    pub limit: usize,
}

/// A record as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub path: String,
    /// `None` is a tombstone.
    pub cid: Option<String>,
    /// The value that was refused, of a tombstone that a refusal left.
    pub refused_cid: Option<String>,
    /// The rules by which the value was kept or refused, if this version knows them.
    pub judgement: Option<Judgement>,
    pub rev: String,
    /// The row's commit was verified, at any level.
    pub is_proven: bool,
}

/// The result of reconciling gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many repositories were marked for a recheck; `None` if no gap has ended.
    pub rechecks: Option<u64>,
    pub closed: Vec<ClosedGap>,
}

/// A gap that was closed because all of its rechecks are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedGap {
    pub id: i64,
    pub resolution: String,
}

/// The progress of a search for repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    pub search: Search,
    pub cursor: Option<String>,
    pub repos: u64,
    pub is_over: bool,
    /// Why it cannot be made, if the server does not have the method.
    pub unsupported: Option<String>,
    /// How many times the list is read, this time included.
    pub pass: i64,
}
