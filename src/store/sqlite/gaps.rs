//! Stretches of a source's events that may have been missed.

use sqlx::sqlite::SqliteConnection;

use super::writer::Writer;
use super::{SqliteStore, integer, now, timely};
use crate::store::StoreError;
use crate::store::repos::{ClosedGap, Reconciled};

/// Which gaps have ended and have not led to a comparison yet. The end of the gap before a server's new
/// sequence is never told: that one has ended once something of the new sequence is applied.
macro_rules! ended {
    () => {
        "closed_at IS NULL AND recheck_started_at IS NULL AND (to_seq IS NOT NULL OR (\
         cause = 'future_cursor' AND source IN (\
             SELECT source FROM firehose_cursor WHERE cursor <> '0')))"
    };
}

/// So many repositories are doubted in one transaction.
const PIECE: i64 = 5000;

/// So often in vain was tried what a gap need not wait for any longer. The attempts go on all the same.
const ATTEMPTS_TO_WAIT_FOR: u32 = 10;

/// Has every tracked repository doubted for the sake of gaps that have ended, and closes those of
/// which all were seen to.
pub(super) async fn reconcile(store: &SqliteStore) -> Result<Reconciled, StoreError> {
    let is_open: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM gaps WHERE closed_at IS NULL)")
            .fetch_one(store.reader())
            .await?;
    if !is_open {
        return Ok(Reconciled::default());
    }
    let now = now();
    Ok(Reconciled {
        doubted: doubt(store, &now).await?,
        closed: timely(close(&store.writer, &now)).await?,
    })
}

/// In pieces, so that those who write events wait for none of them long. Who dies amid them begins anew.
async fn doubt(store: &SqliteStore, now: &str) -> Result<Option<u64>, StoreError> {
    let new: Option<i64> = sqlx::query_scalar(concat!("SELECT max(id) FROM gaps WHERE ", ended!()))
        .fetch_one(store.reader())
        .await?;
    let Some(newest) = new else {
        return Ok(None);
    };
    let (mut doubted, mut after) = (0, String::new());
    while let Some((count, through)) = timely(doubt_piece(&store.writer, newest, &after)).await? {
        doubted += count;
        after = through;
    }
    timely(note_doubted(&store.writer, newest, doubted, now)).await?;
    Ok(Some(doubted))
}

/// Doubts the repositories behind `after`, up to a number of them. Returns how many those were, and the
/// last one; `None` where there are none.
async fn doubt_piece(
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
    // Where nobody has followed the chain, to know where it stands is not to know what was before.
    for statement in [
        "UPDATE repos SET recheck_cause = ?3, retry_at = NULL, attempts = 0 \
         WHERE did > ?1 AND did <= ?2 AND state <> 'unverified_chain'",
        "UPDATE repos SET state = 'desynchronized', cause = 'gap', retry_at = NULL, attempts = 0 \
         WHERE did > ?1 AND did <= ?2 AND state = 'unverified_chain'",
        // An account may have come back in the gap.
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

async fn note_doubted(
    writer: &Writer,
    newest: i64,
    doubted: u64,
    now: &str,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    // What was created in the gap by those of whom nothing was known is found by a search alone.
    sqlx::query(
        "UPDATE discoveries SET cursor = NULL, repos = 0, attempts = 0, started_at = ?, \
         ended_at = NULL",
    )
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(concat!(
        "UPDATE gaps SET recheck_started_at = ?, recheck_repos = ? WHERE id <= ? AND ",
        ended!()
    ))
    .bind(now)
    .bind(integer(doubted))
    .bind(newest)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Closes the gaps for which everything was tried. Accounts that are gone have nothing to compare.
async fn close(writer: &Writer, now: &str) -> Result<Vec<ClosedGap>, StoreError> {
    let mut transaction = writer.begin().await?;
    let connection = &mut *transaction;
    let gaps: Vec<(i64, String, i64)> = sqlx::query_as(
        "SELECT id, recheck_started_at, recheck_repos FROM gaps \
         WHERE closed_at IS NULL AND recheck_started_at IS NOT NULL",
    )
    .fetch_all(&mut *connection)
    .await?;
    if gaps.is_empty() || is_unsettled(connection).await? {
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

/// What a gap waits for, of repositories.
macro_rules! owed_to_gaps {
    () => {
        "urgency IS NOT NULL AND (recheck_cause > 0 \
         OR state IN ('desynchronized', 'resyncing', 'throttled')) \
         AND NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0)"
    };
}

async fn is_unsettled(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "SELECT EXISTS (SELECT 1 FROM discoveries WHERE ended_at IS NULL AND attempts < ?1) \
         OR EXISTS (SELECT 1 FROM repos WHERE attempts < ?1 AND ",
        owed_to_gaps!(),
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
    let left: i64 = sqlx::query_scalar(concat!(
        "SELECT count(*) FROM repos WHERE ",
        owed_to_gaps!()
    ))
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
