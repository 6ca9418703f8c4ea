//! Deletes rows whose retention is over.

use jiff::{SignedDuration, Timestamp};

use super::feed::RESERVE;
use super::writer::Writer;
use super::{SqliteStore, integer};
use crate::store::datetime::sortable;
use crate::store::{KeptLetters, Purged, Retention, StoreError};

/// Rows that one transaction deletes, so that batches wait only briefly for the writer.
const CHUNK: u64 = 1000;

/// The raw record stays in `records`, and its rev prevents that a replay brings the row back.
const ENDED_REQUESTS: &str = "DELETE FROM booking_requests WHERE uri IN ( \
     SELECT uri FROM booking_requests \
     WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at < ? LIMIT 1000)";

/// Dead letters hold up to some MB each, so their bytes are limited to 4 MiB too.
const DEAD_LETTERS: &str = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM ( \
     SELECT id, sum(bytes) OVER (ORDER BY created_at, id) - bytes AS bytes_before FROM ( \
     SELECT id, created_at, octet_length(raw) AS bytes FROM dead_letters \
     WHERE created_at < ? ORDER BY created_at, id LIMIT 1000)) WHERE bytes_before < 4194304)";

/// The oldest letters: `?1` of them, and so many that they have `?2` bytes; of these as many as one
/// transaction deletes.
const OLDEST_LETTERS: &str = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM ( \
     SELECT id, row_number() OVER (ORDER BY created_at, id) AS number, \
     sum(bytes) OVER (ORDER BY created_at, id) - bytes AS bytes_before FROM ( \
     SELECT id, created_at, octet_length(raw) + coalesce(octet_length(task), 0) AS bytes \
     FROM dead_letters ORDER BY created_at, id LIMIT 1000)) \
     WHERE bytes_before < 4194304 AND (number <= ?1 OR bytes_before < ?2))";

/// The result of a gap stays in its own row.
const RESYNCS: &str = "DELETE FROM resyncs WHERE id IN ( \
     SELECT id FROM resyncs WHERE ended_at < ? LIMIT 1000)";

/// The newest gap stays, as the newest command and row of the audit do: their ids are never given twice.
const CLOSED_GAPS: &str = "DELETE FROM gaps WHERE id IN ( \
     SELECT id FROM gaps WHERE closed_at < ? AND id < (SELECT max(id) FROM gaps) LIMIT 1000)";

const ENDED_COMMANDS: &str = "DELETE FROM commands WHERE id IN ( \
     SELECT id FROM commands WHERE ended_at < ? AND id < (SELECT max(id) FROM commands) LIMIT 1000)";

const AUDIT_ROWS: &str = "DELETE FROM audit WHERE id IN ( \
     SELECT id FROM audit WHERE at < ? AND id < (SELECT max(id) FROM audit) LIMIT 1000)";

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
    let accounts = purge_accounts(writer, now).await?;
    let audit_limit = days_before(now, retention.audit_days);
    Ok(Purged {
        accounts,
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
        commands: delete_before(writer, ENDED_COMMANDS, audit_limit).await?,
        audit_rows: delete_before(writer, AUDIT_ROWS, audit_limit).await?,
    })
}

/// Deletes a piece of the oldest letters, if there are too many.
pub(super) async fn trim_letters(
    store: &SqliteStore,
    retention: Retention,
) -> Result<KeptLetters, StoreError> {
    let totals = sqlx::query_as("SELECT letters, bytes FROM dead_letter_totals");
    let (letters, bytes): (i64, i64) = totals.fetch_one(store.reader()).await?;
    let kept = KeptLetters {
        letters: letters.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
        deleted: 0,
    };
    let many = kept.letters.saturating_sub(retention.dead_letters);
    let large = kept.bytes.saturating_sub(retention.dead_letter_bytes);
    if (many, large) == (0, 0) {
        return Ok(kept);
    }
    let mut transaction = store.writer.begin().await?;
    let piece = sqlx::query(OLDEST_LETTERS)
        .bind(integer(many))
        .bind(integer(large))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let deleted = piece.rows_affected();
    Ok(KeptLetters { deleted, ..kept })
}

/// Days after which an account is forgotten of which nothing is kept.
const ACCOUNT_DAYS: u32 = 7;

/// The oldest rows of accounts, and whether something of the account is kept.
const OLD_ACCOUNTS: &str = "SELECT did, \
     EXISTS (SELECT 1 FROM repos WHERE repos.did = accounts.did) \
     OR EXISTS (SELECT 1 FROM records WHERE uri > 'at://' || accounts.did || '/' \
     AND uri < 'at://' || accounts.did || '0') \
     OR EXISTS (SELECT 1 FROM account_removals AS removals WHERE removals.did = accounts.did) \
     AS is_kept \
     FROM accounts WHERE updated_at < ? ORDER BY updated_at LIMIT 1000";

/// A status that hides what may come later stays, and so does an operator's word. The bare row of a
/// deleted account goes: a replay of the stream that brings back its commits brings the deletion too. A row
/// in the change feed stays, since it tells the readers of the feed what was removed.
const FORGET: &str = "DELETE FROM accounts WHERE did IN (SELECT value FROM json_each(?1)) \
     AND held_status IS NULL AND is_overridden = 0 AND change IS NULL \
     AND NOT (active = 0 AND status IN ('takendown', 'suspended'))";

const FORGET_HANDLE: &str = "UPDATE accounts SET handle = NULL, handle_as_of = NULL, \
     handle_as_of_seq = NULL, handle_due_at = NULL, handle_status = 'unknown', \
     handle_checked_at = NULL, handle_check_at = NULL, updated_at = ?2, \
     change = iif(change IS NULL OR (handle IS NULL AND handle_status = 'unknown'), change, \
     (SELECT last FROM change_feed) + 1 + named.key) \
     FROM json_each(?1) AS named WHERE accounts.did = named.value";

/// Rows that are still needed are looked at again after the same time.
const KEEP: &str = "UPDATE accounts SET updated_at = ?2 \
     WHERE did IN (SELECT value FROM json_each(?1))";

/// Forgets accounts of which nothing is kept, and returns how many rows were deleted. Each piece is
/// a transaction. A row that was looked at has a new age, so no piece comes twice.
async fn purge_accounts(writer: &Writer, now: Timestamp) -> Result<u64, StoreError> {
    let limit = sortable(days_before(now, ACCOUNT_DAYS));
    let now = sortable(now);
    let mut deleted = 0;
    loop {
        let mut transaction = writer.begin().await?;
        let old: Vec<(String, bool)> = sqlx::query_as(OLD_ACCOUNTS)
            .bind(&limit)
            .fetch_all(&mut *transaction)
            .await?;
        let dids = |kept: bool| {
            let dids = old.iter().filter(|(_, is_kept)| *is_kept == kept);
            let dids: Vec<&str> = dids.map(|(did, _)| did.as_str()).collect();
            serde_json::Value::from(dids).to_string()
        };
        let forgotten = sqlx::query(FORGET).bind(dids(false));
        deleted += forgotten.execute(&mut *transaction).await?.rows_affected();
        for (statement, dids) in [(FORGET_HANDLE, dids(false)), (KEEP, dids(true))] {
            let statement = sqlx::query(statement).bind(dids).bind(&now);
            statement.execute(&mut *transaction).await?;
        }
        let reserve = sqlx::query(RESERVE).bind(dids(false));
        reserve.execute(&mut *transaction).await?;
        transaction.commit().await?;
        if (old.len() as u64) < CHUNK {
            return Ok(deleted);
        }
    }
}

async fn delete_before(
    writer: &Writer,
    statement: &'static str,
    limit: Timestamp,
) -> Result<u64, StoreError> {
    in_chunks(writer, statement, &[&sortable(limit)]).await
}

/// Repeats `statement`, which changes some of the rows that it is about, until it changes none. Returns
/// the number of rows.
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
        let of_chunk = query.execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        changed += of_chunk;
        if of_chunk == 0 {
            return Ok(changed);
        }
    }
}

/// Returns `now` minus `days`, or the earliest time of the calendar.
fn days_before(now: Timestamp, days: u32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_hours(i64::from(days) * 24))
        .unwrap_or(Timestamp::MIN)
}
