//! The stored records as they are judged again after a change of the rules.

use bytes::Bytes;
use cid::Cid;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::plan::{Rejudged, RejudgedRecord};
use super::repo_store::RepoStore;
use super::{PieceLimit, StoreError};
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;
use crate::model::{Judgement, SourceId};
use crate::store::plan::effect::RecordVersion;

/// Which stored records are judged again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// `None` means all.
    pub collection: Option<Pattern>,
    /// `None` means all.
    pub did: Option<Did>,
    /// Those that were indexed or refused since then.
    pub since: Option<Timestamp>,
    /// Only those that are known to be invalid: flagged ones, and refused ones in dead letters.
    pub is_invalid_only: bool,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRecord {
    pub version: RecordVersion,
    pub source: SourceId,
    pub cid: Cid,
    pub cbor: Bytes,
    pub verdict: Verdict,
    /// The rules by which that was said, if this version knows them.
    pub judgement: Option<Judgement>,
    pub indexed_at: String,
    /// The dead letter that has the bytes, of a refused record.
    pub letter: Option<i64>,
}

/// What the rules have said of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Invalid,
    Refused,
    Unvalidated,
    Valid,
}

/// A part of the stored records.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPage<K> {
    /// Those that were selected.
    pub records: Vec<StoredRecord>,
    /// Rows that were looked at.
    pub looked_at: u64,
    /// Selected rows that this version cannot read.
    pub unreadable: u64,
    /// The key of the last row; `None` at the end.
    pub through: Option<K>,
}

/// The stored records, read in pieces. They are written by [`RepoStore::change`].
pub trait RejudgeStore: RepoStore {
    /// The records behind `after`, a URI, in the order of their URIs. At least one row is looked at,
    /// however long it is.
    fn stored<'a>(
        &'a self,
        selection: &'a Selection,
        after: &'a str,
        limit: PieceLimit,
    ) -> BoxFuture<'a, Result<StoredPage<String>, StoreError>>;

    /// The refused records of the dead letters of stage `validate` behind `after`, an id, whose rows
    /// are still those that the refusal left.
    fn refused<'a>(
        &'a self,
        selection: &'a Selection,
        after: i64,
        limit: PieceLimit,
    ) -> BoxFuture<'a, Result<StoredPage<i64>, StoreError>>;

    /// The collections of which there are records, in order.
    fn kept_collections(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// Notes by which rules a worker judges from now on. Returns the collections of which records
    /// were judged by others.
    fn compare_rules<'a>(
        &'a self,
        rules: &'a [(String, Judgement)],
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>>;

    /// Has each reprocess that goes by other rules than these begin anew. What it has judged counts no longer:
    /// records may be judged by these rules before the other ones come back.
    fn restart_reprocessings(&self, rules: Judgement) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Notes that the records of these collections were judged again by these rules.
    fn note_rules<'a>(
        &'a self,
        rules: &'a [(String, Judgement)],
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}
