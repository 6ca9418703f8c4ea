//! Queries of an operator, answered by the readers.

use jiff::Timestamp;
use serde::Serialize;

use super::{SqliteStore, cursor};
use crate::model::{GapCause, Position, SourceId};
use crate::store::{OpenGapCounts, StoreError};

/// A row of `firehose_cursor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CursorRow {
    pub id: String,
    /// `None` for the row that no source has claimed yet.
    pub source: Option<String>,
    pub position: Position,
    pub updated_at: Timestamp,
}

/// A gap that is not reconciled yet. Datetimes are UTC text of fixed width.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct OpenGap {
    pub id: i64,
    pub source: String,
    pub cause: String,
    pub from_seq: i64,
    pub from_time: Option<String>,
    pub to_seq: Option<i64>,
    pub to_time: Option<String>,
    pub opened_at: String,
}

/// How many rows the tables and views hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Counts {
    pub records: i64,
    pub tombstones: i64,
    pub accounts: i64,
    pub repos: i64,
    pub offers: i64,
    pub booking_requests: i64,
    pub active_booking_requests: i64,
    pub bookings: i64,
    pub dead_letters: i64,
    pub open_gaps: i64,
}

/// The records of one collection, with tombstones counted separately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct CollectionCount {
    pub collection: String,
    pub records: i64,
    pub tombstones: i64,
}

/// An attempt to fetch a repository as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ResyncRow {
    pub did: String,
    pub cause: String,
    pub host: Option<String>,
    pub started_at: String,
    pub ended_at: String,
    /// The rev that was fetched; `None` if the attempt failed.
    pub rev: Option<String>,
    pub created: i64,
    pub updated: i64,
    pub deleted: i64,
    pub unchanged: i64,
    pub bytes: i64,
    pub error: Option<String>,
}

impl SqliteStore {
    /// All cursors, in the order in which their sources were first seen.
    pub async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        let rows: Vec<RawCursor> = sqlx::query_as(
            "SELECT id, source, cursor, event_time, updated_at FROM firehose_cursor ORDER BY rowid",
        )
        .fetch_all(self.reader())
        .await?;
        rows.into_iter().map(CursorRow::try_from).collect()
    }

    /// The gaps of all sources that are open, oldest first.
    pub async fn open_gaps(&self) -> Result<Vec<OpenGap>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, source, cause, from_seq, from_time, to_seq, to_time, opened_at \
             FROM gaps WHERE closed_at IS NULL ORDER BY opened_at, id",
        )
        .fetch_all(self.reader())
        .await?)
    }

    pub(super) async fn count_open_gaps_of(
        &self,
        source: &SourceId,
    ) -> Result<OpenGapCounts, StoreError> {
        let (all, interest_widened): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(*) FILTER (WHERE cause = ?) FROM gaps \
             WHERE source = ? AND closed_at IS NULL",
        )
        .bind(GapCause::InterestWidened.as_str())
        .bind(source.as_str())
        .fetch_one(self.reader())
        .await?;
        Ok(OpenGapCounts {
            all: all.unsigned_abs(),
            interest_widened: interest_widened.unsigned_abs(),
        })
    }

    /// Counts the rows of every table. It reads each table whole.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        Ok(sqlx::query_as(
            "SELECT \
             (SELECT count(*) FROM records WHERE deleted = 0) AS records, \
             (SELECT count(*) FROM records WHERE deleted = 1) AS tombstones, \
             (SELECT count(*) FROM accounts) AS accounts, \
             (SELECT count(*) FROM repos) AS repos, \
             (SELECT count(*) FROM offers_index) AS offers, \
             (SELECT count(*) FROM booking_requests) AS booking_requests, \
             (SELECT count(*) FROM active_booking_requests) AS active_booking_requests, \
             (SELECT count(*) FROM bookings) AS bookings, \
             (SELECT count(*) FROM dead_letters) AS dead_letters, \
             (SELECT count(*) FROM gaps WHERE closed_at IS NULL) AS open_gaps",
        )
        .fetch_one(self.reader())
        .await?)
    }

    /// Counts the records of each collection, in the order of their names.
    pub async fn collection_counts(&self) -> Result<Vec<CollectionCount>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT collection, sum(deleted = 0) AS records, sum(deleted) AS tombstones \
             FROM records GROUP BY collection ORDER BY collection",
        )
        .fetch_all(self.reader())
        .await?)
    }

    /// The last `limit` attempts to fetch a repository, the newest first.
    pub async fn last_resyncs(&self, limit: u32) -> Result<Vec<ResyncRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT did, cause, host, started_at, ended_at, rev, created, updated, deleted, \
             unchanged, bytes, error FROM resyncs ORDER BY id DESC LIMIT ?",
        )
        .bind(limit)
        .fetch_all(self.reader())
        .await?)
    }

    /// Counts the dead letters.
    pub async fn dead_letter_count(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM dead_letters")
            .fetch_one(self.reader())
            .await?)
    }
}

/// A row of `firehose_cursor` as it is stored.
#[derive(sqlx::FromRow)]
struct RawCursor {
    id: String,
    source: Option<String>,
    cursor: String,
    event_time: Option<String>,
    updated_at: i64,
}

impl TryFrom<RawCursor> for CursorRow {
    type Error = StoreError;

    fn try_from(raw: RawCursor) -> Result<Self, StoreError> {
        Ok(Self {
            id: raw.id,
            source: raw.source,
            position: cursor::position(&raw.cursor, raw.event_time.as_deref())?,
            updated_at: Timestamp::from_second(raw.updated_at)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?,
        })
    }
}
