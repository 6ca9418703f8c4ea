//! What the work on whole repositories needs from the tables: which repositories have to be fetched,
//! have parked commits, or have to be compared with their hosts, and how that went.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

pub use super::plan::{
    DiscoveryPage, HostStatus, ParkedCommit, RepoChange, RepoEvent, Resync, ResyncFailure,
    SnapshotPart, UnconfirmedStatus,
};
use super::{StoreError, Written};
use crate::atproto::syntax::{Did, Nsid};
use crate::model::RepoCounts;

/// The tables, as far as they are about whole repositories. Like every [`Store`](super::Store), it
/// does each thing whole or not at all.
pub trait RepoStore: Send + Sync + 'static {
    /// The DIDs of all repositories that have or had a record that is kept.
    fn tracked(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// Repositories of this urgency that are due now, at most so many: first those that were never tried.
    fn due(
        &self,
        urgency: JobKind,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueRepo>, StoreError>>;

    /// Applies what has become of a repository, or of an account.
    fn change<'a>(&'a self, change: RepoChange<'a>) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// How often it was tried to fetch a repository since then, and when the last time was.
    fn resyncs_since<'a>(
        &'a self,
        did: &'a Did,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<RecentResyncs, StoreError>>;

    /// The records of a repository, tombstones too, by their paths: behind `after`, up to `through`,
    /// at most so many.
    fn held<'a>(&'a self, range: HeldRange<'a>) -> BoxFuture<'a, Result<Vec<Held>, StoreError>>;

    /// The first of the frames of a repository that wait.
    fn first_parked<'a>(
        &'a self,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Option<ParkedCommit>, StoreError>>;

    /// Has every tracked repository compared for the sake of gaps that have ended, and closes the gaps
    /// for which all comparisons are done.
    fn reconcile_gaps(&self) -> BoxFuture<'_, Result<Reconciled, StoreError>>;

    /// Tracked accounts that are said to be gone, and whose own hosts were not asked yet.
    fn unconfirmed(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<UnconfirmedStatus>, StoreError>>;

    /// Begins to look for the repositories that hold these collections, those that were not looked for
    /// yet; `anew` also where they were.
    fn begin_discovery<'a>(
        &'a self,
        collections: &'a [Nsid],
        anew: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Notes that the next page of an discovery could not be had.
    fn note_failed_page<'a>(
        &'a self,
        collection: &'a Nsid,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The discoveries, ended or not.
    fn discoveries(&self) -> BoxFuture<'_, Result<Vec<Discovery>, StoreError>>;

    /// How many repositories are in which state, and how far the backfill is.
    fn repo_counts(&self) -> BoxFuture<'_, Result<RepoCounts, StoreError>>;
}

/// What is to be done for a repository, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobKind {
    /// Let through what waits.
    Replay,
    /// Fetch it, because the stream has shown that something was missed.
    Resync,
    /// Ask its host whether it is where it is thought to be.
    Recheck,
    /// Fetch it for a backfill.
    Backfill,
}

impl JobKind {
    pub const ALL: [Self; 4] = [Self::Replay, Self::Resync, Self::Recheck, Self::Backfill];
}

/// A repository that is due for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRepo {
    pub did: Did,
    /// Its account is active, as far as is known.
    pub is_active: bool,
    /// Where it stands, where that is known.
    pub rev: Option<String>,
    /// The time of the event that set the status of its account, if one did.
    pub status_as_of: Option<Timestamp>,
    /// When its account was removed, if it was. What is of that time or earlier is gone.
    pub removed_at: Option<Timestamp>,
    pub cause: Option<String>,
    /// The gap for which it is doubted, if it is; 0 is a commit that was refused.
    pub recheck_cause: Option<i64>,
    /// How often it was tried in vain.
    pub attempts: u32,
}

/// Attempts to fetch a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentResyncs {
    pub count: u32,
    /// What the successful ones have brought.
    pub bytes: u64,
    pub last_ended_at: Option<Timestamp>,
}

/// Which of a repository's records are asked for.
#[derive(Clone, Copy, Debug)]
pub struct HeldRange<'a> {
    pub did: &'a Did,
    /// A path (`collection/rkey`); empty is the beginning.
    pub after: &'a str,
    /// A path; `None` is the end.
    pub through: Option<&'a str>,
    pub limit: usize,
}

/// A record as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub path: String,
    /// `None` is a tombstone.
    pub cid: Option<String>,
    pub rev: String,
}

/// What has become of gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many repositories are doubted now because of gaps that have ended; `None` where none has.
    pub doubted: Option<u64>,
    pub closed: Vec<ClosedGap>,
}

/// A gap of which every repository was seen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedGap {
    pub id: i64,
    pub resolution: String,
}

/// The search for the repositories that hold a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    pub collection: Nsid,
    pub cursor: Option<String>,
    pub repos: u64,
    pub is_over: bool,
}
