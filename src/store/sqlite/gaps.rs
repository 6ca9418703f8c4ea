//! Stretches of a source's events that may have been missed.

use sqlx::sqlite::SqliteConnection;

use super::writer::Writer;
use super::{integer, now};
use crate::queue::effect::Gap;
use crate::source::SourceId;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repos::{ClosedGap, Reconciled};

/// Records `gap`, unless it is known.
///
/// A gap whose end was not known when it was opened gets its end from the next one of the same
/// origin (source, cause, beginning); and one without an end adds nothing beside an open one of
/// the same origin.
pub(super) async fn open(
    connection: &mut SqliteConnection,
    source: &SourceId,
    gap: &Gap,
    now: &str,
) -> Result<(), sqlx::Error> {
    let from_time = gap.from_time.map(sortable);
    let to_seq = gap.to_seq.map(integer);
    let to_time = gap.to_time.map(sortable);
    if to_seq.is_some() {
        let ended = sqlx::query(
            "UPDATE gaps SET to_seq = ?5, to_time = ?6 \
             WHERE source = ?1 AND cause = ?2 AND from_seq = ?3 AND from_time IS ?4 \
             AND to_seq IS NULL AND closed_at IS NULL",
        )
        .bind(source.as_str())
        .bind(gap.cause.as_str())
        .bind(integer(gap.from_seq))
        .bind(from_time.as_deref())
        .bind(to_seq)
        .bind(to_time.as_deref())
        .execute(&mut *connection)
        .await?;
        if ended.rows_affected() > 0 {
            return Ok(());
        }
    }
    sqlx::query(
        "INSERT INTO gaps (source, cause, from_seq, from_time, to_seq, to_time, opened_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS ( \
             SELECT 1 FROM gaps \
             WHERE source = ?1 AND cause = ?2 AND from_seq = ?3 AND from_time IS ?4 \
             AND (to_seq = ?5 OR (?5 IS NULL AND closed_at IS NULL)))",
    )
    .bind(source.as_str())
    .bind(gap.cause.as_str())
    .bind(integer(gap.from_seq))
    .bind(from_time)
    .bind(to_seq)
    .bind(to_time)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Which gaps have ended and have not led to a comparison yet. The end of the gap before a server's new
/// sequence is never told: that one has ended once something of the new sequence is applied.
macro_rules! ended {
    () => {
        "closed_at IS NULL AND doubted_at IS NULL AND (to_seq IS NOT NULL OR (\
         cause = 'future_cursor' AND source IN (\
             SELECT source FROM firehose_cursor WHERE cursor <> '0')))"
    };
}

/// Has every tracked repository doubted for the sake of gaps that have ended, and closes those of
/// which all were seen to. While a search for repositories is under way, none is closed: what was
/// created in the gap is found by it alone.
pub(super) async fn reconcile(writer: &Writer) -> Result<Reconciled, StoreError> {
    let mut transaction = writer.begin().await?;
    let now = now();
    let reconciled = Reconciled {
        doubted: doubt(&mut transaction, &now).await?,
        closed: close(&mut transaction, &now).await?,
    };
    transaction.commit().await?;
    Ok(reconciled)
}

async fn doubt(connection: &mut SqliteConnection, now: &str) -> Result<Option<u64>, sqlx::Error> {
    let new: Option<i64> = sqlx::query_scalar(concat!("SELECT max(id) FROM gaps WHERE ", ended!()))
        .fetch_one(&mut *connection)
        .await?;
    let Some(newest) = new else {
        return Ok(None);
    };
    let doubted = sqlx::query(
        "UPDATE repos SET doubted_by = ?, retry_at = NULL, attempts = 0 \
         WHERE state <> 'unchained'",
    )
    .bind(newest)
    .execute(&mut *connection)
    .await?;
    // An account may have come back in the gap.
    sqlx::query(
        "UPDATE accounts SET is_hearsay = 1, retry_at = NULL, attempts = 0 \
         WHERE active = 0 AND did IN (SELECT did FROM repos)",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE enumerations SET cursor = NULL, repos = 0, started_at = ?, ended_at = NULL",
    )
    .bind(now)
    .execute(&mut *connection)
    .await?;
    sqlx::query(concat!(
        "UPDATE gaps SET doubted_at = ?, doubted_repos = ? WHERE ",
        ended!()
    ))
    .bind(now)
    .bind(integer(doubted.rows_affected()))
    .execute(&mut *connection)
    .await?;
    Ok(Some(doubted.rows_affected()))
}

async fn close(
    connection: &mut SqliteConnection,
    now: &str,
) -> Result<Vec<ClosedGap>, sqlx::Error> {
    let is_unsettled: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM enumerations WHERE ended_at IS NULL) OR EXISTS ( \
             SELECT 1 FROM repos WHERE (doubted_by IS NOT NULL OR (cause IN ('gap', 'backfill') \
             AND state IN ('desynchronized', 'resyncing', 'throttled'))) \
             AND NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0)) \
         OR EXISTS (SELECT 1 FROM accounts WHERE is_hearsay = 1 AND did IN (SELECT did FROM repos))",
    )
    .fetch_one(&mut *connection)
    .await?;
    if is_unsettled {
        return Ok(Vec::new());
    }
    let gaps: Vec<(i64, String, i64)> = sqlx::query_as(
        "SELECT id, doubted_at, doubted_repos FROM gaps \
         WHERE closed_at IS NULL AND doubted_at IS NOT NULL",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut closed = Vec::new();
    for (id, doubted_at, repos) in gaps {
        let resolution = resolution(connection, &doubted_at, repos).await?;
        sqlx::query("UPDATE gaps SET closed_at = ?2, resolution = ?3 WHERE id = ?1")
            .bind(id)
            .bind(now)
            .bind(&resolution)
            .execute(&mut *connection)
            .await?;
        closed.push(ClosedGap { id, resolution });
    }
    Ok(closed)
}

async fn resolution(
    connection: &mut SqliteConnection,
    since: &str,
    repos: i64,
) -> Result<String, sqlx::Error> {
    let (fetched, created, updated, deleted): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(created), 0), coalesce(sum(updated), 0), \
         coalesce(sum(deleted), 0) FROM resyncs WHERE started_at >= ? AND error IS NULL",
    )
    .bind(since)
    .fetch_one(&mut *connection)
    .await?;
    Ok(format!(
        "compared {repos} repositories, fetched {fetched}: {created} records created, {updated} \
         updated, {deleted} deleted"
    ))
}
