//! The tables and the cursor: the traits of a store, the plan of a transaction, and the SQLite
//! store.

pub mod change_feed;
mod datetime;
pub mod handle_store;
pub mod identity_store;
pub mod letters;
pub mod lock;
pub mod plan;
pub mod rejudge_store;
pub mod repo_store;
pub mod sqlite;

use std::collections::BTreeMap;
use std::future::ready;
use std::path::PathBuf;

pub(crate) use self::datetime::sortable;
pub use self::plan::{RepoState, Written};

use futures_util::future::BoxFuture;

use crate::model::{Change, Feed, Gap, Position, SourceId, Trips};
use crate::store::plan::InterestSet;
use crate::store::plan::effect::{Effect, Rejection};

/// The only writer of the tables and of the cursor. Another database can implement it.
pub trait Store: Send + Sync + 'static {
    /// Applies `batch` in one transaction, effects and cursor together: all of it or nothing.
    fn apply<'a>(&'a self, batch: &'a WriteBatch<'a>)
    -> BoxFuture<'a, Result<Written, StoreError>>;

    /// Applies several batches, given as one, in one transaction. If the database refuses it, it is not
    /// searched for the refused effects: [`StoreError::Rejected`] need not name any.
    fn apply_group<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.apply(batch)
    }

    /// Makes `set` the set of interest in force. One call does one piece of the work, in one
    /// transaction; the set is adopted once an answer is [`Adoption::Unchanged`] or
    /// [`Adoption::Finished`]. Nothing may be read under `set` before.
    fn adopt_interest<'a>(
        &'a self,
        source: &'a SourceId,
        set: &'a InterestSet,
    ) -> BoxFuture<'a, Result<Adoption, StoreError>>;

    /// Reads the source's durable cursor. A new source gets one.
    fn load_cursor<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>>;

    /// Moves the cursor to `position`, in either direction, and records `gap`, in one transaction.
    fn move_cursor<'a>(
        &'a self,
        source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Counts the open gaps of `source`.
    fn count_open_gaps<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<OpenGapCounts, StoreError>>;

    /// Records that the worker starts to follow `source`, and returns how earlier runs ended. If a
    /// frame was in progress when the last run ended, it becomes a suspect.
    fn begin_run<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>>;

    /// Records the frame that the worker is about to read. `None` means that it was read.
    fn mark_in_progress<'a>(
        &'a self,
        source: &'a SourceId,
        frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Forgets how earlier runs ended, because this one works.
    fn forget_crashes<'a>(&'a self, source: &'a SourceId) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Deletes a piece of the parked commits that were dropped, in one transaction. Returns whether
    /// there were any.
    fn drop_piece(&self, limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Gives numbers of the change feed to a piece of the rows that an earlier version wrote, in one
    /// transaction. Returns whether there were any.
    fn number_piece(&self, _limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(ready(Ok(false)))
    }

    /// Sets the groups of a piece of the dead letters that an earlier version has kept, in one
    /// transaction. Returns whether there were any.
    fn group_piece(&self, _limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(ready(Ok(false)))
    }

    /// Deletes a piece of the rows of accounts that were removed, in one transaction. `None` if no
    /// account is being removed.
    fn remove_piece(
        &self,
        limit: PieceLimit,
    ) -> BoxFuture<'_, Result<Option<RemovalPiece>, StoreError>>;

    /// Counts the removed accounts whose rows are still being deleted.
    fn count_removals(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Deletes rows whose retention is over.
    fn purge<'a>(&'a self, retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>>;

    /// Deletes a piece of the oldest dead letters beyond the limits of their number and their bytes, in one
    /// transaction. Returns how many were deleted and are left.
    fn trim_letters(
        &self,
        _retention: Retention,
    ) -> BoxFuture<'_, Result<KeptLetters, StoreError>> {
        Box::pin(ready(Ok(KeptLetters::default())))
    }

    /// The size of what was written and is not in the tables' file yet.
    fn log_bytes(&self) -> u64;

    /// How many transactions were begun, and how many trips to the database they took.
    fn trips(&self) -> Trips {
        Trips::default()
    }

    /// Moves all of it there, at the end of a run. Nothing is lost without it.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// What one transaction writes.
#[derive(Debug)]
pub struct WriteBatch<'a> {
    pub source: &'a SourceId,
    /// In the order of the source.
    pub effects: &'a [Effect],
    /// The cursor after the effects are applied. It only moves forward, unless
    /// `sequence_restarted`.
    pub position: Position,
    /// The source's seqs restarted within this batch, so `position` may be lower than the cursor.
    pub sequence_restarted: bool,
}

/// What one call of [`Store::adopt_interest`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// The set was in force already.
    Unchanged,
    /// The set was stored, and a gap with it if it is wider. Its consequences follow.
    Began(ChangedInterest),
    /// A piece of the consequences was done. The next call does another.
    Continues,
    /// The last piece was done.
    Finished {
        /// Records that the views hide from now on.
        hidden_records: u64,
        /// Repositories that are fetched again.
        voided_repos: u64,
    },
}

/// A change of the set of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedInterest {
    /// The database had no set before.
    pub is_first: bool,
    /// Records that are kept may not be wanted any more.
    pub is_narrowed: bool,
    /// For a wider set: the position from which newly wanted records may not have been kept.
    pub unkept_since: Option<Position>,
}

/// How many gaps of a source are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenGapCounts {
    pub all: u64,
    /// Those of a wider set of interest.
    pub interest_widened: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCursor {
    pub position: Position,
    /// No event of this source was ever applied, and its cursor was never set by hand.
    pub is_new: bool,
    /// Of a new source: the one that was followed last before it, and its cursor.
    pub follows: Option<(SourceId, Position)>,
}

/// The SHA-256 of a frame. It identifies frames without a seq too.
pub type FrameDigest = [u8; 32];

/// How the runs before this one ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashHistory {
    /// How many runs in a row ended in a crash.
    pub crashes: u32,
    /// For each frame: how many runs in a row, up to the last one, ended in a crash while it was in
    /// progress.
    pub suspects: BTreeMap<FrameDigest, u32>,
}

/// How much one transaction deletes, so that others wait only briefly. One row is deleted however
/// large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceLimit {
    pub rows: u64,
    pub bytes: u64,
}

impl Default for PieceLimit {
    fn default() -> Self {
        Self {
            rows: 1000,
            bytes: 4 << 20,
        }
    }
}

/// Consecutive changes of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangePage {
    /// In the order of their numbers.
    pub changes: Vec<Change>,
    /// The number up to which the page goes. The last change may have a lower one.
    pub through: u64,
    /// The feed, in the same state of the database.
    pub feed: Feed,
}

/// What one call of [`Store::remove_piece`] deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalPiece {
    pub did: String,
    /// Records and dead letters.
    pub rows: u64,
    pub bytes: u64,
    /// All rows of the account are deleted.
    pub is_last: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Age, in days, at which a booking request that is no longer active is purged.
    pub inactive_request_days: u32,
    /// Age, in days, at which a dead letter is purged, and a row of `resyncs`.
    pub dead_letter_days: u32,
    /// How many dead letters are kept, at most, and how many bytes of them.
    pub dead_letters: u64,
    pub dead_letter_bytes: u64,
    /// Days after which a gap that was closed is purged.
    pub closed_gap_days: u32,
    /// Age, in days, at which a command and a row of the audit are purged.
    pub audit_days: u32,
}

/// The dead letters that are kept, wherever they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptLetters {
    /// Those before the deletion.
    pub letters: u64,
    /// Of their bytes and tasks.
    pub bytes: u64,
    /// Those that were deleted just now.
    pub deleted: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub accounts: u64,
    pub booking_requests: u64,
    pub dead_letters: u64,
    pub resyncs: u64,
    pub closed_gaps: u64,
    pub commands: u64,
    pub audit_rows: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database itself fails (busy, locked, full, read-only, missing). The batch is valid and
    /// is retried until it succeeds.
    #[error("the database is unavailable: {error}{remedy}", error = .0, remedy = sqlite::remedy(.0))]
    Unavailable(#[source] sqlx::Error),

    /// There was no answer in time. The transaction may be committed all the same.
    #[error("the database did not answer in time")]
    Deadline,

    /// The file is not a database of this program. Nothing was written to it.
    #[error("{path} is not a database of this program: {reason}; name another file", path = path.display())]
    Foreign { path: PathBuf, reason: String },

    /// A newer version of this program has changed the schema.
    #[error(
        "{path} has the schema of a newer version ({found}; this version knows {known}); run that \
         version, or restore a copy from before the update",
        path = path.display()
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },

    /// There is no such file, and it was not to be created.
    #[error("there is no database at {path}; `run` or `migrate` creates it", path = .0.display())]
    Missing(PathBuf),

    /// A lexicon needs a name that something else has.
    #[error(
        "the view of the lexicon {collection} needs the name {name}, which the database has for \
         something that this program did not make; rename or drop that, or leave the lexicon out"
    )]
    NameTaken { name: String, collection: String },

    /// The schema is older, and was not to be changed.
    #[error(
        "{path} has the schema of an older version; stop the worker, and update it with `migrate`",
        path = .0.display()
    )]
    Older(PathBuf),

    /// The file is damaged. Neither waiting nor a dead letter helps, so the batch is held.
    #[error(
        "the database file is damaged; stop the worker, and replace the file and its -wal and -shm \
         with a good copy: {0}"
    )]
    Damaged(#[source] sqlx::Error),

    /// The database refuses single effects. The batch can be applied without them.
    #[error("the database refused {} effect(s) of the batch; the first reason: {}", .0.len(), .0.first().map_or("", |r| r.reason.as_str()))]
    Rejected(Vec<Rejection>),

    /// A stored value is not one that this version writes.
    #[error("the database holds a value that this version cannot read: {0}")]
    Corrupt(String),
}
