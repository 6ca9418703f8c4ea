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

const CLOSED_GAPS: &str = "DELETE FROM gaps WHERE id IN ( \
     SELECT id FROM gaps WHERE closed_at < ? LIMIT 1000)";

/// Rows that were written while our clock was ahead. Their age counts from now on.
const FROM_THE_FUTURE: [&str; 4] = [
    "UPDATE booking_requests SET indexed_at = ?2 WHERE uri IN ( \
     SELECT uri FROM booking_requests \
     WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at > ?1 LIMIT 1000)",
    "UPDATE dead_letters SET created_at = ?2 WHERE id IN ( \
     SELECT id FROM dead_letters WHERE created_at > ?1 LIMIT 1000)",
    "UPDATE resyncs SET ended_at = ?2 WHERE id IN ( \
     SELECT id FROM resyncs WHERE ended_at > ?1 LIMIT 1000)",
    "UPDATE gaps SET closed_at = ?2 WHERE id IN ( \
     SELECT id FROM gaps WHERE closed_at > ?1 LIMIT 1000)",
];

/// A row that is further ahead of our clock was written while the clock was wrong.
const CLOCK_STEP: SignedDuration = SignedDuration::from_hours(1);

/// All ages are by our own clock: no time of an event decides.
pub(super) async fn purge(writer: &Writer, retention: Retention) -> Result<Purged, StoreError> {
    let now = Timestamp::now();
    let latest = sortable(now.checked_add(CLOCK_STEP).unwrap_or(now));
    for statement in FROM_THE_FUTURE {
        in_chunks(writer, statement, &[&latest, &sortable(now)]).await?;
    }
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
        closed_gaps: delete_before(
            writer,
            CLOSED_GAPS,
            days_before(now, retention.closed_gap_days),
        )
        .await?,
    })
}

async fn delete_before(
    writer: &Writer,
    statement: &'static str,
    limit: Timestamp,
) -> Result<u64, StoreError> {
    in_chunks(writer, statement, &[&sortable(limit)]).await
}

/// Repeats `statement` until it changes less than a whole chunk. Returns the number of rows.
async fn in_chunks(
    writer: &Writer,
    statement: &'static str,
    arguments: &[&str],
) -> Result<u64, StoreError> {
    let mut changed = 0;
    loop {
        let mut transaction = writer.begin().await?;
        let mut query = sqlx::query(statement);
        for argument in arguments {
            query = query.bind(*argument);
        }
        let chunk = query.execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        changed += chunk;
        if chunk < CHUNK {
            return Ok(changed);
        }
    }
}

/// Returns `now` minus `days`, or the earliest time of the calendar.
fn days_before(now: Timestamp, days: u32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_hours(i64::from(days) * 24))
        .unwrap_or(Timestamp::MIN)
}
