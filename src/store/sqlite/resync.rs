//! Repositories that are fetched as a whole.

use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::accounts::json_array;
use super::apply::{Origin, conclude, write_effects};
use super::due::forget_empty;
use super::writer::{Transaction, Writer};
use super::{SqliteStore, now};
use crate::atproto::syntax::Did;
use crate::store::chain::RepoState;
use crate::store::datetime::sortable;
use crate::store::repos::{Held, HeldRange, RecentResyncs, Resync, SnapshotPart};
use crate::store::{StoreError, Written};

/// How often it has to be said that there is no such repository before it is believed. The next attempt
/// comes an hour after the one before by then.
const ATTEMPTS_TO_BE_SURE: u32 = 10;

pub(super) async fn begin(writer: &Writer, did: &Did) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE repos SET state = 'resyncing', recheck_cause = NULL, updated_at = ?2 WHERE did = ?1",
    )
    .bind(did.as_str())
    .bind(now())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn since(
    store: &SqliteStore,
    did: &Did,
    since: Timestamp,
) -> Result<RecentResyncs, StoreError> {
    let (count, bytes, last_ended_at): (u32, i64, Option<String>) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(bytes), 0), max(ended_at) FROM resyncs \
         WHERE did = ? AND ended_at >= ?",
    )
    .bind(did.as_str())
    .bind(sortable(since))
    .fetch_one(store.reader())
    .await?;
    Ok(RecentResyncs {
        count,
        bytes: bytes.unsigned_abs(),
        last_ended_at: last_ended_at.and_then(|text| text.parse().ok()),
    })
}

/// URIs of one repository sort as its paths do, so the table's key has them in order.
pub(super) async fn held(
    store: &SqliteStore,
    range: HeldRange<'_>,
) -> Result<Vec<Held>, StoreError> {
    let uri = |path: &str| format!("at://{}/{path}", range.did);
    // The character behind the slash.
    let end = || format!("at://{}0", range.did);
    let rows: Vec<(String, Option<String>, String)> = sqlx::query_as(
        "SELECT uri, cid, rev FROM records WHERE uri > ? AND uri <= ? ORDER BY uri LIMIT ?",
    )
    .bind(uri(range.after))
    .bind(range.through.map_or_else(end, uri))
    .bind(i64::try_from(range.limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let root = uri("").len();
    let held = rows.into_iter().map(|(uri, cid, rev)| Held {
        path: uri.get(root..).unwrap_or_default().to_owned(),
        cid,
        rev,
    });
    Ok(held.collect())
}

pub(super) async fn write_snapshot(
    writer: &Writer,
    part: &SnapshotPart<'_>,
) -> Result<Written, StoreError> {
    let mut transaction = writer.begin().await?;
    let written = write_part(&mut transaction, part).await;
    conclude(writer, transaction, written, part.source, part.effects).await
}

async fn write_part(
    transaction: &mut Transaction<'_>,
    part: &SnapshotPart<'_>,
) -> Result<Written, sqlx::Error> {
    let uri = |path: &String| format!("at://{}/{path}", part.did);
    let confirmed: Vec<String> = part.confirmed.iter().map(uri).collect();
    sqlx::query(
        "UPDATE records SET verified = 'chain' \
         WHERE uri IN (SELECT value FROM json_each(?)) AND verified <> 'chain'",
    )
    .bind(json_array(confirmed.iter().map(String::as_str)))
    .execute(&mut **transaction)
    .await?;
    write_effects(transaction, part.source, part.effects, Origin::Snapshot).await
}

pub(super) async fn end(writer: &Writer, resync: &Resync) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let now = now();
    move_state(&mut transaction, resync, &now).await?;
    let done = resync.outcome.as_ref().ok();
    let count = |count: fn(&crate::store::repos::Resynced) -> u64| {
        super::integer(done.map(count).unwrap_or_default())
    };
    sqlx::query(
        "INSERT INTO resyncs (did, cause, host, started_at, ended_at, rev, created, updated, \
         deleted, unchanged, bytes, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(resync.did.as_str())
    .bind(resync.cause.as_str())
    .bind(resync.host.as_deref())
    .bind(sortable(resync.started_at))
    .bind(&now)
    .bind(done.map(|done| done.rev.as_str()))
    .bind(count(|done| done.created))
    .bind(count(|done| done.updated))
    .bind(count(|done| done.deleted))
    .bind(count(|done| done.unchanged))
    .bind(count(|done| done.bytes))
    .bind(
        resync
            .outcome
            .as_ref()
            .err()
            .map(|failure| failure.error.as_str()),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Where it is another state than the one that the attempt has set, the repository has to be fetched once
/// more for a reason that came up meanwhile, or has gone.
async fn move_state(
    connection: &mut SqliteConnection,
    resync: &Resync,
    now: &str,
) -> Result<(), sqlx::Error> {
    match &resync.outcome {
        Ok(done) => {
            sqlx::query(
                "UPDATE repos SET state = 'synchronized', rev = ?2, data = ?3, seq = NULL, is_whole = 1, \
                 source = ?4, time = ?5, retry_at = NULL, attempts = 0, updated_at = ?6 \
                 WHERE did = ?1 AND state = 'resyncing'",
            )
            .bind(resync.did.as_str())
            .bind(&done.rev)
            .bind(&done.data)
            .bind(resync.host.as_deref())
            .bind(sortable(done.time))
            .bind(now)
            .execute(&mut *connection)
            .await?;
            forget_empty(connection, &resync.did).await?;
        }
        Err(failure) => {
            let state = match failure.is_throttled {
                true => RepoState::Throttled,
                false => RepoState::Desynchronized,
            };
            sqlx::query(
                "UPDATE repos SET state = ?2, retry_at = ?3, attempts = attempts + 1, \
                 updated_at = ?4 WHERE did = ?1 AND state = 'resyncing'",
            )
            .bind(resync.did.as_str())
            .bind(state.as_str())
            .bind(sortable(failure.retry_at))
            .bind(now)
            .execute(&mut *connection)
            .await?;
            if failure.is_gone {
                sqlx::query(
                    "DELETE FROM repos WHERE did = ?1 AND rev IS NULL AND has_parked = 0 \
                     AND cause IN ('backfill', 'refused') AND attempts > ?2 \
                     AND NOT EXISTS (SELECT 1 FROM records WHERE did = ?1)",
                )
                .bind(resync.did.as_str())
                .bind(ATTEMPTS_TO_BE_SURE)
                .execute(&mut *connection)
                .await?;
            }
        }
    }
    Ok(())
}
