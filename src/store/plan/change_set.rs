//! What a transaction writes, table by table.

use std::collections::{BTreeMap, BTreeSet};

use super::account::AccountRow;
use super::dead_letters::Fingerprint;
use super::discovery::DiscoveryRow;
use super::gaps::GapRow;
use super::lost_stretch::{BreakChanges, LostStretch};
use super::parked::Parked;
use super::records::RecordRow;
use super::repository::RepoRow;
use super::task::Resync;
use crate::model::{DeadLetter, SourceId};

/// The rows that a transaction writes and deletes, applied in the order of the fields. No write has
/// a condition: everything is decided before.
#[derive(Debug, Default)]
pub struct ChangeSet<'a> {
    /// Where records, parked frames, dead letters and gaps come from.
    pub source: Option<&'a SourceId>,
    /// Rows of `accounts`, by DID.
    pub accounts: BTreeMap<&'a str, AccountRow>,
    /// Accounts of which a first record is written, so that they enter the change feed.
    pub entering: BTreeSet<&'a str>,
    /// The last number of the change feed that was given out before.
    pub last_change: u64,
    /// Accounts whose identity has changed, so that what is stored of it is void.
    pub changed_identities: BTreeSet<&'a str>,
    /// Accounts that are removed: their records, the projections of these, their dead letters, and
    /// all of their parked frames.
    pub removals: BTreeMap<&'a str, Removal>,
    /// Rows of an account are being deleted, from now on or already.
    pub is_removing: bool,
    /// The removal of an account that is complete.
    pub ended_removal: Option<i64>,
    /// The seq up to which rows of the source are of the sequence that is followed; `None` if none
    /// are.
    pub followed: Option<u64>,
    /// URIs of records that are now verified with their chain.
    pub confirmed: Vec<String>,
    /// Rows of `records`, by URI. The projection of each is written with it.
    pub records: BTreeMap<String, RecordRow<'a>>,
    /// URIs of records that an event or a fetch has shown as they are: they are no longer stale.
    pub refreshed: BTreeSet<String>,
    /// A repository that was fetched whole, so none of its wanted records is stale.
    pub refreshed_repo: Option<&'a str>,
    /// Rows of `repos`, by DID.
    pub repos: BTreeMap<&'a str, RepoRow>,
    /// Repositories that are no longer tracked.
    pub untracked: BTreeSet<&'a str>,
    /// Parked frames that were replayed.
    pub replayed: Vec<i64>,
    /// Repositories whose parked frames are dropped.
    pub unparked_repos: BTreeSet<&'a str>,
    /// Frames that are parked, in their order.
    pub parked: Vec<Parked<'a>>,
    /// Gaps that are new, or have reached their end.
    pub gaps: Vec<GapRow>,
    /// Breaks of chains that are new or changed, and those that are forgotten.
    pub breaks: BreakChanges,
    /// Dead letters that are new.
    pub dead_letters: Vec<(Fingerprint, &'a DeadLetter)>,
    /// Ids of dead letters whose records are kept now, or that were tried again.
    pub resolved_letters: Vec<i64>,
    /// A row that the sinks get once more.
    pub told_again: Option<ToldAgain<'a>>,
    /// A finished attempt to fetch a repository.
    pub resync: Option<&'a Resync>,
    /// The row of `discoveries` of a collection.
    pub discovery: Option<(&'a str, DiscoveryRow)>,
    pub written: Written,
}

/// A row that gets another number of the change feed, although nothing of it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldAgain<'a> {
    /// By its DID.
    Account(&'a str),
    /// By its URI.
    Record(&'a str),
}

/// How much of an account is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// All that is stored.
    Everything,
    /// What was received before the event that its row names as `removed`.
    BeforeEvent,
}

/// The counts of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that changed: records and tombstones.
    pub records: u64,
    /// Upserts and deletes that were superseded by an equal or higher rev, or by their account's
    /// deletion.
    pub stale: u64,
    /// Dead letters that were new.
    pub dead_letters: u64,
    /// Commits that were parked, or stay parked.
    pub parked: u64,
    /// Parked frames that were replayed.
    pub replayed: u64,
    /// They were the last of their repository, which takes commits of the stream again.
    pub ends_replay: bool,
    /// Commits that follow by their tree, but name a wrong rev before them.
    pub wrong_sinces: u64,
    /// A repository has a job due.
    pub leaves_work: bool,
    /// A commit of a dead letter does not follow from the head of its repository, which is fetched
    /// instead.
    pub fetched_instead: bool,
    /// The sinks get a row once more.
    pub told_again: bool,
    /// A gap was opened, because the source has lost events.
    pub lost_stretch: Option<LostStretch>,
}
