//! Deletes rows whose retention is over.

use jiff::{SignedDuration, Timestamp};

use super::writer::Writer;
use crate::store::datetime::sortable;
use crate::store::{Purged, Retention, StoreError};

/// Rows that one transaction deletes, so that batches wait only briefly for the writer.
const CHUNK: u64 = 1000;

/// The raw record stays in `records`, and its rev prevents that a replay brings the row back.
const ENDED_REQUESTS: &str = "DELETE FROM booking_requests WHERE uri IN ( \
     SELECT uri FROM booking_requests \
     WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at < ? LIMIT 1000)";

const DEAD_LETTERS: &str = "DELETE FROM dead_letters WHERE id IN ( \
     SELECT id FROM dead_letters WHERE created_at < ? LIMIT 1000)";

/// The result of a gap stays in its own row.
const RESYNCS: &str = "DELETE FROM resyncs WHERE id IN ( \
     SELECT id FROM resyncs WHERE ended_at < ? LIMIT 1000)";

pub(super) async fn purge(writer: &Writer, retention: Retention) -> Result<Purged, StoreError> {
    let now = Timestamp::now();
    Ok(Purged {
        booking_requests: delete_before(
            writer,
            ENDED_REQUESTS,
            days_before(now, retention.inactive_request_days),
        )
        .await?,
        dead_letters: delete_before(
            writer,
            DEAD_LETTERS,
            days_before(now, retention.dead_letter_days),
        )
        .await?,
        resyncs: delete_before(
            writer,
            RESYNCS,
            days_before(now, retention.dead_letter_days),
        )
        .await?,
    })
}

async fn delete_before(
    writer: &Writer,
    statement: &'static str,
    limit: Timestamp,
) -> Result<u64, StoreError> {
    let limit = sortable(limit);
    let mut deleted = 0;
    loop {
        let mut transaction = writer.begin().await?;
        let chunk = sqlx::query(statement)
            .bind(limit.as_str())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        transaction.commit().await?;
        deleted += chunk;
        if chunk < CHUNK {
            return Ok(deleted);
        }
    }
}

/// Returns `now` minus `days`, or the earliest time of the calendar.
fn days_before(now: Timestamp, days: u32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_hours(i64::from(days) * 24))
        .unwrap_or(Timestamp::MIN)
}
