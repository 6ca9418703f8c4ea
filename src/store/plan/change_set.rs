//! What a transaction writes, table by table.

use std::collections::{BTreeMap, BTreeSet};

use super::account::AccountRow;
use super::dead_letters::Fingerprint;
use super::gaps::GapRow;
use super::records::RecordWrite;
use super::repository::RepoRow;
use super::task::{DiscoveryPage, Resync};
use crate::model::{DeadLetter, SourceId};
use crate::store::plan::effect::ChainUpdate;

/// The rows that a transaction puts and deletes. They are applied in the order of the fields. No row is
/// put only under a condition: all that was to be decided has been.
#[derive(Debug, Default)]
pub struct ChangeSet<'a> {
    /// Where records, parked frames, dead letters and gaps come from.
    pub source: Option<&'a SourceId>,
    /// Rows of `accounts`, by DID.
    pub accounts: BTreeMap<&'a str, AccountRow>,
    /// Accounts that are removed with all that they had up to this time: their records, the rows that
    /// these became, and all of their parked frames.
    pub removals: BTreeMap<&'a str, String>,
    /// URIs of records that are now known to be verified with their chain.
    pub confirmed: Vec<String>,
    /// Rows of `records`, by URI. Each takes along the row that discovery and matching read.
    pub records: BTreeMap<String, RecordWrite<'a>>,
    /// Rows of `repos`, by DID.
    pub repos: BTreeMap<&'a str, RepoRow>,
    /// Repositories that are not tracked any more.
    pub untracked: BTreeSet<&'a str>,
    /// A parked frame that is done with.
    pub replayed: Option<i64>,
    /// Repositories whose parked frames are dropped.
    pub dropped: BTreeSet<&'a str>,
    /// Frames that are parked, in their order.
    pub parked: Vec<&'a ChainUpdate>,
    /// Gaps that are new, or whose end was found.
    pub gaps: Vec<GapRow>,
    /// Dead letters that are new.
    pub dead_letters: Vec<(Fingerprint, &'a DeadLetter)>,
    /// An attempt to fetch a repository that has ended.
    pub resync: Option<&'a Resync>,
    /// A page of a search that was dealt with.
    pub page: Option<&'a DiscoveryPage<'a>>,
    pub written: Written,
}

/// What a transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that changed: records and tombstones.
    pub records: u64,
    /// Upserts and deletes that an equal or higher rev, or their account's deletion, had overtaken.
    pub stale: u64,
    /// Dead letters that were new.
    pub dead_letters: u64,
    /// Commits that have to wait.
    pub waiting: u64,
    /// A repository is due for work.
    pub leaves_work: bool,
}
