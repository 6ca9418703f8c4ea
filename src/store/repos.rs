//! What those need from the tables who see to repositories: to ones that have to be fetched as a whole,
//! whose commits wait, or of which nobody knows whether they are still where we think they are.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::{StoreError, Written};
use crate::atproto::syntax::{Did, Nsid};
use crate::model::SourceId;
use crate::store::plan::effect::Effect;

/// The tables, as far as they are about whole repositories. Like every [`Store`](super::Store), it
/// does each thing whole or not at all.
pub trait RepoStore: Send + Sync + 'static {
    /// The DIDs of all repositories that have or had a record that is kept.
    fn tracked(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// Repositories of this urgency that somebody has to see to now, at most so many: first those that
    /// nobody has seen to yet.
    fn due(
        &self,
        urgency: JobKind,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueRepo>, StoreError>>;

    /// Has a repository fetched as a whole, whatever is known of it.
    fn desynchronize<'a>(
        &'a self,
        did: &'a Did,
        cause: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// How often it was tried to fetch a repository since then, and when the last time was.
    fn resyncs_since<'a>(
        &'a self,
        did: &'a Did,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<RecentResyncs, StoreError>>;

    /// Notes that a repository is being fetched. What comes of it meanwhile, waits. The answer to
    /// whatever was doubted of it before is what is fetched from now on.
    fn begin_resync<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The records of a repository, tombstones too, by their paths: behind `after`, up to `through`,
    /// at most so many.
    fn held<'a>(&'a self, range: HeldRange<'a>) -> BoxFuture<'a, Result<Vec<Held>, StoreError>>;

    /// Writes a part of what a repository holds.
    fn write_snapshot<'a>(
        &'a self,
        part: &'a SnapshotPart<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// Notes how an attempt to fetch a repository has ended, and moves its state accordingly, unless
    /// something has happened meanwhile for which it has to be fetched once more.
    fn end_resync<'a>(&'a self, resync: &'a Resync) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The first of the frames of a repository that wait.
    fn first_parked<'a>(
        &'a self,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Option<ParkedCommit>, StoreError>>;

    /// Applies what a frame that waited asks for, and takes it out of the queue. One that does not
    /// follow from what is known stays there, and its repository is to be fetched.
    fn replay_parked<'a>(
        &'a self,
        waiting: &'a ParkedCommit,
        effects: &'a [Effect],
    ) -> BoxFuture<'a, Result<Replayed, StoreError>>;

    /// Notes that nothing of a repository waits any more, if that is so.
    fn finish_replay<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Has a repository left alone until then. It was tried in vain.
    fn retry_later<'a>(
        &'a self,
        did: &'a Did,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Has a repository left alone until then: nobody had the time to try.
    fn reschedule<'a>(
        &'a self,
        did: &'a Did,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Has a repository left alone until its account is active again, and the account's host asked
    /// whether it is.
    fn suspend_until_active<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Forgets what was to be done for a repository: nobody wants it any more.
    fn untrack<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Notes that a repository was found where it was thought to be, unless it is doubted for another
    /// reason by now.
    fn finish_recheck<'a>(&'a self, repo: &'a DueRepo) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Has every tracked repository doubted for the sake of gaps that have ended, and closes those of
    /// which all were seen to.
    fn reconcile_gaps(&self) -> BoxFuture<'_, Result<Reconciled, StoreError>>;

    /// Tracked accounts of which somebody else than their host says that they are gone.
    fn unconfirmed(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<UnconfirmedStatus>, StoreError>>;

    /// Notes that an account's host gives its repository out no longer, by this status: as of the last
    /// that is known of it, so that whatever comes of it in the stream says more.
    fn report_inactive<'a>(
        &'a self,
        did: &'a Did,
        status: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Notes what the account's own host says; nothing where the account has another status by now.
    fn confirm_status<'a>(
        &'a self,
        unconfirmed: &'a UnconfirmedStatus,
        host_status: &'a HostStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

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

    /// Notes a page of an discovery: repositories that were never seen as a whole are to be fetched.
    fn note_page<'a>(
        &'a self,
        page: &'a DiscoveryPage<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

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

/// A repository that somebody has to see to.
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

/// A part of a repository.
#[derive(Debug)]
pub struct SnapshotPart<'a> {
    /// Where it was fetched.
    pub source: &'a SourceId,
    pub did: &'a Did,
    pub effects: &'a [Effect],
    /// Paths of records that are as the tables have them.
    pub confirmed: &'a [String],
}

/// An attempt to fetch a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    pub did: Did,
    pub cause: String,
    /// Where it was asked for, if it came to that.
    pub host: Option<String>,
    pub started_at: Timestamp,
    pub outcome: Result<Resynced, ResyncFailure>,
}

/// What a repository has come to, and what that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resynced {
    pub rev: String,
    pub data: String,
    /// As of when, by the stream's clock.
    pub time: Timestamp,
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncFailure {
    pub error: String,
    /// Its host wants to be left alone.
    pub is_throttled: bool,
    /// There is no such repository, so that nothing is lost where nothing of it is kept.
    pub is_gone: bool,
    pub retry_at: Timestamp,
}

/// A frame that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedCommit {
    pub id: i64,
    pub did: Did,
    /// Where its repository stands, where nothing of it was missed.
    pub known_rev: Option<String>,
    pub source: SourceId,
    pub frame: bytes::Bytes,
}

/// What became of a frame that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is applied, or came too late.
    Done,
    /// It stays where it is: something before it was missed.
    StillParked,
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

/// What is said of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnconfirmedStatus {
    pub did: Did,
    pub status: Option<String>,
    /// The time of the event that said so.
    pub as_of: String,
    /// How often its host was asked in vain.
    pub attempts: u32,
}

/// What the host of an account says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStatus {
    Active,
    /// Gone for good.
    Deleted,
    /// Not active, by this status.
    Inactive(Option<String>),
    /// It could not be asked; again then.
    Unknown(Timestamp),
}

/// The search for the repositories that hold a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    pub collection: Nsid,
    pub cursor: Option<String>,
    pub repos: u64,
    pub is_over: bool,
}

/// A page of an discovery.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryPage<'a> {
    pub collection: &'a Nsid,
    pub dids: &'a [Did],
    /// Where it goes on; `None` is the end.
    pub cursor: Option<&'a str>,
}

/// How the tracked repositories stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RepoCounts {
    /// All of them.
    pub tracked: u64,
    /// To be fetched as a whole.
    pub desynchronized: u64,
    /// Being fetched.
    pub resyncing: u64,
    /// To be fetched once their hosts allow it.
    pub throttled: u64,
    /// To be asked whether they are where they are thought to be.
    pub doubted: u64,
    /// Of which commits wait for a key, or for the repository to be fetched.
    pub waiting: u64,
    /// The commits that wait.
    #[serde(rename = "waiting_commits")]
    pub parked_commits: u64,
    pub backfill: BackfillCounts,
}

/// How far the backfill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BackfillCounts {
    /// Collections whose repositories are still being looked for.
    pub enumerating: u64,
    /// Repositories that were fetched since the search began.
    pub fetched: u64,
    /// Repositories that are still to be fetched.
    pub left: u64,
    /// Those of them that were tried, so far in vain.
    pub failing: u64,
}

impl BackfillCounts {
    /// Whether everything was tried that a directory has named.
    pub fn is_over(&self) -> bool {
        self.enumerating == 0 && self.left <= self.failing
    }
}
