//! What an event asks of the tables.

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use super::index_task::IndexTask;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::Level;
use crate::huddle::Projection;
use crate::model::SourceId;

/// One change to the tables. Effects are idempotent and monotone: each carries what guards it
/// (a rev, a time), so applying it twice, or after a later one, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Account(AccountChange),
    /// What follows it, up to the next effect that is about no record, is what this commit did.
    Commit(Box<ChainUpdate>),
    DeadLetter(Box<DeadLetter>),
    /// Something of this repository could not be believed, so its host is to be asked whether it is
    /// still where the tables have it.
    Recheck(Recheck),
    Delete(RecordDelete),
    Gap(Gap),
    Identity(IdentityChange),
    Upsert(Box<RecordUpsert>),
}

impl Effect {
    /// The record it is about, if it is about one.
    pub fn uri(&self) -> Option<String> {
        match self {
            Self::Delete(delete) => Some(delete.version.uri()),
            Self::Upsert(upsert) => Some(upsert.version.uri()),
            Self::DeadLetter(letter) => letter.uri.clone(),
            Self::Account(_)
            | Self::Commit(_)
            | Self::Recheck(_)
            | Self::Gap(_)
            | Self::Identity(_) => None,
        }
    }

    /// `effects` with dead letters in the place of those that the database refused.
    pub fn without_refused(
        mut effects: Vec<Self>,
        source: &SourceId,
        rejections: Vec<Rejection>,
    ) -> Vec<Self> {
        for Rejection { effect, reason } in rejections {
            if let Some(refused) = effects.get_mut(effect) {
                *refused = refused.refused(source, 1, reason);
            }
        }
        effects
    }

    /// The dead letter of an effect that the database refused `attempts` times.
    pub fn refused(&self, source: &SourceId, attempts: u32, error: String) -> Self {
        let task = match self {
            Self::Delete(delete) => Some(IndexTask::delete(delete, source, attempts)),
            Self::Upsert(upsert) => Some(IndexTask::upsert(upsert, source, attempts)),
            _ => None,
        };
        let (seq, did) = match self {
            Self::Account(change) => (Some(change.seq), Some(change.did.to_string())),
            Self::Commit(step) => (Some(step.seq), Some(step.did.to_string())),
            Self::Delete(delete) => (
                Some(delete.version.seq),
                Some(delete.version.did.to_string()),
            ),
            Self::Identity(change) => (Some(change.seq), Some(change.did.to_string())),
            Self::Upsert(upsert) => (
                Some(upsert.version.seq),
                Some(upsert.version.did.to_string()),
            ),
            Self::DeadLetter(letter) => (letter.seq, letter.did.clone()),
            Self::Recheck(doubt) => (None, Some(doubt.did.to_string())),
            Self::Gap(gap) => (gap.to_seq, None),
        };
        let raw = match self {
            Self::Commit(step) => step.frame.clone(),
            Self::DeadLetter(letter) => letter.raw.clone(),
            Self::Upsert(upsert) => upsert.cbor.clone(),
            _ => Bytes::new(),
        };
        Self::DeadLetter(Box::new(DeadLetter {
            stage: Stage::Index,
            error,
            seq,
            did,
            uri: self.uri(),
            task: task.and_then(|task| serde_json::to_string(&task).ok()),
            raw,
            attempts,
        }))
    }
}

/// An effect that the database refuses whatever is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its index in what was to be written.
    pub effect: usize,
    pub reason: String,
}

/// See [`Effect::Recheck`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recheck {
    pub did: Did,
    /// What could not be believed would have been kept, so the repository is fetched also where it is
    /// not tracked.
    pub is_wanted: bool,
}

/// Where a record stands, and which commit said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordVersion {
    pub did: Did,
    pub collection: Nsid,
    pub rkey: RecordKey,
    /// Guards the row: only a higher rev replaces it.
    pub rev: Tid,
    pub seq: u64,
    /// The event's `time`. Records from before their account's deletion are not brought back.
    pub time: Timestamp,
    /// The MST root of the commit, for the repository's chain state.
    pub data: Cid,
    /// How much of the commit was verified; `None` is nothing.
    pub verified: Option<Level>,
}

/// A repository says that it has gone from one state to the next. Whether what it did is to be
/// believed depends on the state in which the tables have it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainUpdate {
    pub did: Did,
    /// The rev and the MST root that it has come to.
    pub rev: Tid,
    pub data: Cid,
    pub seq: u64,
    pub time: Timestamp,
    pub predecessor: Predecessor,
    /// Where it is the first that is seen of its repository, what was before it is wanted too.
    pub wants_history: bool,
    /// The frame that says so, to be read again where it has to wait.
    pub frame: Bytes,
}

/// Where a step begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// A commit, proven by itself.
    After {
        since: Option<Tid>,
        /// The tree before it, proven. `None` for the first commit of a repository, and where that is
        /// let pass unproven.
        prev_data: Option<Cid>,
        /// Whether it is let pass.
        is_lenient: bool,
    },
    /// A `#sync`, which doesn't say.
    Unstated,
    /// Not proven: who signs for the account is not known for now, or may have changed.
    KeyUnavailable,
}

impl RecordVersion {
    /// `at://did/collection/rkey`
    pub fn uri(&self) -> String {
        format!("at://{}/{}/{}", self.did, self.collection, self.rkey)
    }
}

/// A record was created or replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordUpsert {
    pub version: RecordVersion,
    pub cid: Cid,
    /// The record as JSON (the protocol's JSON form of its data model).
    pub json: String,
    /// The record as signed.
    pub cbor: Bytes,
    pub validity: Validity,
    /// The row that discovery and matching read; `None` where the record has no such form.
    pub projection: Option<Projection>,
}

/// A record was deleted, or replaced by something that is not kept. Leaves a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordDelete {
    pub version: RecordVersion,
}

/// What the lexicon said of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    /// Kept all the same, since the policy of its collection is `flag`.
    Invalid {
        reason: String,
    },
    /// No schema is known, or the policy of its collection is `off`.
    Unvalidated,
}

impl Validity {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid { .. } => "invalid",
            Self::Unvalidated => "unvalidated",
        }
    }
}

/// An account's hosting status, guarded by (`time`, `seq`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountChange {
    pub did: Did,
    pub active: bool,
    pub status: Option<String>,
    /// The account's host is asked: whether the account is really gone before anything is removed, and
    /// for all that it has where it returns.
    pub is_unconfirmed: bool,
    pub seq: u64,
    pub time: Timestamp,
}

impl AccountChange {
    /// Whether the account's records are to be removed rather than hidden.
    pub fn is_deletion(&self) -> bool {
        !self.active && self.status.as_deref() == Some("deleted")
    }
}

/// A handle, guarded by (`time`, `seq`). An identity event without a handle changes no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityChange {
    pub did: Did,
    pub handle: Option<String>,
    pub seq: u64,
    pub time: Timestamp,
}

/// Something that could not be applied, kept for an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    pub stage: Stage,
    /// What was wrong, in words.
    pub error: String,
    /// The seq of the frame, where it could be read.
    pub seq: Option<u64>,
    pub did: Option<String>,
    pub uri: Option<String>,
    /// The index task as JSON (see [`super::index_task::IndexTask`]), where it came to be one.
    pub task: Option<String>,
    /// The bytes at fault: the record, or the whole frame.
    pub raw: Bytes,
    /// How often it was tried.
    pub attempts: u32,
}

impl DeadLetter {
    /// The collection of the record it is about, if it is about one.
    pub fn collection(&self) -> Option<&str> {
        self.uri
            .as_deref()?
            .strip_prefix("at://")?
            .split('/')
            .nth(1)
    }
}

/// Where a dead letter was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The frame or an operation could not be decoded.
    Decode,
    /// The database refused it for good.
    Index,
    /// It killed whatever touched it.
    Poison,
    /// Its collection's lexicon or `$type` refused it.
    Validate,
    /// It is not proven to be of its account's repository.
    Verify,
}

impl Stage {
    pub const ALL: [Self; 5] = [
        Self::Decode,
        Self::Index,
        Self::Poison,
        Self::Validate,
        Self::Verify,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Index => "index",
            Self::Poison => "poison",
            Self::Validate => "validate",
            Self::Verify => "verify",
        }
    }
}

/// A stretch of a source's events that may have been missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub cause: GapCause,
    /// The last seq known to be applied before the gap.
    pub from_seq: u64,
    pub from_time: Option<Timestamp>,
    /// The first seq seen after it; `None` while nothing has come.
    pub to_seq: Option<u64>,
    pub to_time: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The server says that the cursor lies ahead of its log.
    FutureCursor,
    /// The server no longer holds the events behind the cursor, by its own word or by the clock.
    OutdatedCursor,
    /// Seqs began anew behind the same URL.
    SequenceReset,
    /// The source was changed for another whose seqs are unrelated.
    SourceChanged,
    /// A source never seen before was joined at its live end, at the operator's word.
    StartedLive,
    /// The operator moved the cursor.
    CursorMoved,
}

impl GapCause {
    pub const ALL: [Self; 6] = [
        Self::CursorMoved,
        Self::FutureCursor,
        Self::OutdatedCursor,
        Self::SequenceReset,
        Self::SourceChanged,
        Self::StartedLive,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::CursorMoved => "cursor_moved",
            Self::FutureCursor => "future_cursor",
            Self::OutdatedCursor => "outdated_cursor",
            Self::SequenceReset => "sequence_reset",
            Self::SourceChanged => "source_changed",
            Self::StartedLive => "started_live",
        }
    }
}
