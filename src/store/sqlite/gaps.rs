//! Reconciles gaps: marks repositories for a recheck, and closes the gaps whose rechecks are done.

use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::SqliteConnection;

use super::writer::Writer;
use super::{SqliteStore, integer, timely};
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repo_store::{ClosedGap, Reconciled};

/// The gaps that have ended and did not start rechecks yet. Some never get an end, and count as ended:
/// - one before the first event of a new sequence or source, when such an event is applied,
/// - one whose end the process did not live to see, or that another gap took in, when the cursor has moved
///   away from its start,
/// - one of a connection that began too early and brings too little to decide about it, after a minute,
/// - one of a source that was left for another one before its end was known.
///
/// The argument `?1` is the time a minute ago.
macro_rules! ended {
    () => {
        "closed_at IS NULL AND recheck_started_at IS NULL AND (to_seq IS NOT NULL OR (\
         cause IN ('future_cursor', 'source_changed', 'started_live') AND source IN (\
             SELECT source FROM firehose_cursor WHERE cursor <> '0')) OR (\
         cause IN ('outdated_cursor', 'sequence_reset') AND source IN (\
             SELECT source FROM firehose_cursor WHERE CAST(cursor AS INTEGER) <> from_seq)) OR (\
         cause = 'sequence_reset' AND opened_at < ?1) \
         OR (cause <> 'interest_widened' AND EXISTS (SELECT 1 FROM firehose_cursor AS other \
             WHERE other.source <> gaps.source AND CAST(other.cursor AS INTEGER) > 0 \
             AND other.updated_at > unixepoch(gaps.opened_at))))"
    };
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// The number of repositories that one transaction marks for a recheck.
const PIECE: i64 = 5000;

/// A gap does not wait for a job with this many failed attempts. The attempts continue.
const ATTEMPTS_TO_WAIT_FOR: u32 = 10;

/// Marks every tracked repository for a recheck if gaps have ended. Closes the gaps whose rechecks
/// are done.
pub(super) async fn reconcile(
    store: &SqliteStore,
    now: Timestamp,
) -> Result<Reconciled, StoreError> {
    let is_open: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM gaps WHERE closed_at IS NULL)")
            .fetch_one(store.reader())
            .await?;
    if !is_open {
        return Ok(Reconciled::default());
    }
    Ok(Reconciled {
        rechecks: mark_for_recheck(store, now).await?,
        closed: timely(close(&store.writer, &sortable(now))).await?,
    })
}

/// Marks repositories in pieces, so that no piece delays the writers of events for long. After a
/// crash in between, all pieces are marked again.
async fn mark_for_recheck(store: &SqliteStore, now: Timestamp) -> Result<Option<u64>, StoreError> {
    let a_minute_ago = sortable(now.saturating_sub(MINUTE).unwrap_or(Timestamp::MIN));
    let new: Option<i64> = sqlx::query_scalar(concat!("SELECT max(id) FROM gaps WHERE ", ended!()))
        .bind(&a_minute_ago)
        .fetch_one(store.reader())
        .await?;
    let Some(newest) = new else {
        return Ok(None);
    };
    let (mut marked, mut after) = (0, String::new());
    while let Some((count, through)) = timely(mark_piece(&store.writer, newest, &after)).await? {
        marked += count;
        after = through;
    }
    let now = sortable(now);
    let noting = note_rechecks(&store.writer, newest, marked, &now, &a_minute_ago);
    timely(noting).await?;
    Ok(Some(marked))
}

/// Marks a piece of the repositories after `after` for a recheck. Returns their number and the last
/// one; `None` if there are none.
async fn mark_piece(
    writer: &Writer,
    gap: i64,
    after: &str,
) -> Result<Option<(u64, String)>, StoreError> {
    let mut transaction = writer.begin().await?;
    let (count, through): (i64, Option<String>) = sqlx::query_as(
        "SELECT count(*), max(did) FROM (SELECT did FROM repos WHERE did > ? ORDER BY did LIMIT ?)",
    )
    .bind(after)
    .bind(PIECE)
    .fetch_one(&mut *transaction)
    .await?;
    let Some(through) = through else {
        return Ok(None);
    };
    // Without a checked chain, the head does not show what came before it, so the repository is
    // fetched.
    for statement in [
        "UPDATE repos SET recheck_cause = ?3, retry_at = NULL, attempts = 0 \
         WHERE did > ?1 AND did <= ?2 AND state <> 'unverified_chain'",
        "UPDATE repos SET state = 'desynchronized', cause = 'gap', retry_at = NULL, attempts = 0 \
         WHERE did > ?1 AND did <= ?2 AND state = 'unverified_chain'",
        // An account may have become active again in the gap.
        "UPDATE accounts SET is_unconfirmed = 1, retry_at = NULL, attempts = 0 WHERE active = 0 \
         AND did IN (SELECT did FROM repos WHERE did > ?1 AND did <= ?2)",
    ] {
        sqlx::query(statement)
            .bind(after)
            .bind(&through)
            .bind(gap)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(Some((count.unsigned_abs(), through)))
}

async fn note_rechecks(
    writer: &Writer,
    newest: i64,
    marked: u64,
    now: &str,
    a_minute_ago: &str,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    // Only a discovery finds the records that unknown repositories created in the gap. One that
    // runs is not begun again: another pass follows it.
    sqlx::query("UPDATE discoveries SET has_next_pass = 1 WHERE ended_at IS NULL")
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "UPDATE discoveries SET pass = pass + 1, cursor = NULL, repos = 0, attempts = 0, \
         started_at = ?, ended_at = NULL WHERE ended_at IS NOT NULL",
    )
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(concat!(
        "UPDATE gaps SET recheck_started_at = ?2, recheck_repos = ?3 WHERE id <= ?4 AND ",
        ended!()
    ))
    .bind(a_minute_ago)
    .bind(now)
    .bind(integer(marked))
    .bind(newest)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Closes the gaps for which every repository was tried. Inactive accounts have nothing to compare.
async fn close(writer: &Writer, now: &str) -> Result<Vec<ClosedGap>, StoreError> {
    let mut transaction = writer.begin().await?;
    let connection = &mut *transaction;
    let gaps: Vec<(i64, String, i64)> = sqlx::query_as(
        "SELECT id, recheck_started_at, recheck_repos FROM gaps \
         WHERE closed_at IS NULL AND recheck_started_at IS NOT NULL",
    )
    .fetch_all(&mut *connection)
    .await?;
    if gaps.is_empty() || has_work_left(connection).await? {
        return Ok(Vec::new());
    }
    let mut closed = Vec::new();
    for (id, recheck_started_at, repos) in gaps {
        let resolution = resolution(connection, &recheck_started_at, repos).await?;
        sqlx::query("UPDATE gaps SET closed_at = ?2, resolution = ?3 WHERE id = ?1")
            .bind(id)
            .bind(now)
            .bind(&resolution)
            .execute(&mut *connection)
            .await?;
        closed.push(ClosedGap { id, resolution });
    }
    transaction.commit().await?;
    Ok(closed)
}

/// The repositories that a gap waits for.
macro_rules! blocks_gaps {
    () => {
        "urgency IS NOT NULL AND (recheck_cause > 0 \
         OR state IN ('desynchronized', 'resyncing', 'throttled')) \
         AND NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0)"
    };
}

async fn has_work_left(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "SELECT EXISTS (SELECT 1 FROM discoveries WHERE ended_at IS NULL AND is_unsupported = 0 \
         AND attempts < ?1) \
         OR EXISTS (SELECT 1 FROM repos WHERE attempts < ?1 AND ",
        blocks_gaps!(),
        ") OR EXISTS (SELECT 1 FROM accounts WHERE is_unconfirmed = 1 AND attempts < ?1)"
    ))
    .bind(ATTEMPTS_TO_WAIT_FOR)
    .fetch_one(connection)
    .await
}

async fn resolution(
    connection: &mut SqliteConnection,
    since: &str,
    repos: i64,
) -> Result<String, sqlx::Error> {
    let (fetched, created, updated, deleted): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(created), 0), coalesce(sum(updated), 0), \
         coalesce(sum(deleted), 0) FROM resyncs WHERE started_at >= ? AND error IS NULL \
         AND cause NOT IN ('backfill', 'operator')",
    )
    .bind(since)
    .fetch_one(&mut *connection)
    .await?;
    let left: i64 =
        sqlx::query_scalar(concat!("SELECT count(*) FROM repos WHERE ", blocks_gaps!()))
            .fetch_one(&mut *connection)
            .await?;
    let left = match left {
        0 => String::new(),
        left => format!("; {left} could not be compared yet"),
    };
    Ok(format!(
        "compared {repos} repositories, fetched {fetched}: {created} records created, {updated} \
         updated, {deleted} deleted{left}"
    ))
}
