//! Where rows go. One small trait, so that another database can stand behind the pipeline.

mod datetime;
pub mod plan;
pub mod repos;
pub mod sqlite;

use std::collections::BTreeMap;

pub use self::plan::{RepoState, Written};

use futures_util::future::BoxFuture;

use crate::model::{Gap, Position, SourceId};
use crate::store::plan::effect::{Effect, Rejection};

/// The one writer of the tables and of the cursor.
pub trait Store: Send + Sync + 'static {
    /// Applies `batch` whole or not at all, in one transaction: effects and cursor together.
    fn apply<'a>(&'a self, batch: &'a WriteBatch<'a>)
    -> BoxFuture<'a, Result<Written, StoreError>>;

    /// The source's durable cursor, created where the source was never seen.
    fn load_cursor<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>>;

    /// Puts the cursor at `position`, wherever it was, and records `gap`, in one transaction.
    fn move_cursor<'a>(
        &'a self,
        source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// How many gaps of `source` wait to be reconciled.
    fn count_open_gaps<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Notes that the worker begins to follow `source`, and tells how earlier runs ended. A frame
    /// that was in hand when the last one ended is accused of it.
    fn begin_run<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>>;

    /// Notes which frame the worker is about to read, or that it has read it.
    fn mark_in_progress<'a>(
        &'a self,
        source: &'a SourceId,
        frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Forgets how earlier runs ended: this one has done well.
    fn forget_crashes<'a>(&'a self, source: &'a SourceId) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Deletes what has outlived its retention.
    fn purge<'a>(&'a self, retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>>;
}

/// What one transaction is to write.
#[derive(Debug)]
pub struct WriteBatch<'a> {
    pub source: &'a SourceId,
    /// In the order of the source.
    pub effects: &'a [Effect],
    /// Where the cursor stands once the effects are applied. It only moves forward, unless
    /// `sequence_restarted`.
    pub position: Position,
    /// The source's seqs began anew within this batch, so `position` may lie behind the cursor.
    pub sequence_restarted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCursor {
    pub position: Position,
    /// No event of this source has ever been applied, nor its cursor set by hand.
    pub is_new: bool,
    /// Another source had been followed before this one was first seen.
    pub follows_another: bool,
}

/// The SHA-256 of a frame, which tells it from others also where it has no seq.
pub type FrameDigest = [u8; 32];

/// How the runs ended that came before this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashHistory {
    /// How many runs in a row have ended without coming to a good end.
    pub crashes: u32,
    /// In how many of the last runs, all in a row, each frame was in hand when the process ended.
    pub suspects: BTreeMap<FrameDigest, u32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Age, in days, at which a booking request that is no longer active is purged.
    pub inactive_request_days: u32,
    /// Age, in days, at which a dead letter is purged, and what is told of a fetched repository.
    pub dead_letter_days: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub booking_requests: u64,
    pub dead_letters: u64,
    pub resyncs: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is the trouble (busy, locked, full, read-only, gone). The batch is right and is
    /// tried again for as long as it takes.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),

    /// No answer in time. What was asked may have been done all the same.
    #[error("the database did not answer in time")]
    Deadline,

    /// The file is not what SQLite wrote. Waiting doesn't mend it, and a dead letter would not
    /// either, so the batch is held.
    #[error(
        "the database file is damaged; stop the worker, and put a good copy in the place of the \
         file and of its -wal and -shm: {0}"
    )]
    Damaged(#[source] sqlx::Error),

    /// Single effects are the trouble; without them the batch can be applied.
    #[error("{} effect(s) of the batch were refused, the first one because: {}", .0.len(), .0.first().map_or("", |r| r.reason.as_str()))]
    Rejected(Vec<Rejection>),

    /// What is stored is not what this version writes.
    #[error("the database holds what this version cannot read: {0}")]
    Corrupt(String),
}
