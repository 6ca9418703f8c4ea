//! Repositories that somebody has to see to.

use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::accounts::json_array;
use super::apply::{Origin, conclude, write_effects};
use super::writer::{Transaction, Writer};
use super::{SqliteStore, now};
use crate::protocol::syntax::Did;
use crate::queue::effect::Effect;
use crate::source::SourceId;
use crate::store::chain::RepoState;
use crate::store::datetime::sortable;
use crate::store::repos::{Held, HeldRange, Resync, Settled, SnapshotPart, Unsettled, Waiting};
use crate::store::{StoreError, Written};

pub(super) async fn tracked(store: &SqliteStore) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT did FROM repos")
        .fetch_all(store.reader())
        .await?)
}

/// A row of `repos` as it is stored.
#[derive(sqlx::FromRow)]
struct Row {
    did: String,
    rev: Option<String>,
    status_as_of: Option<String>,
    state: String,
    cause: Option<String>,
    has_waiting: bool,
    is_doubted: bool,
    attempts: u32,
}

pub(super) async fn unsettled(
    store: &SqliteStore,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Unsettled>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT did, rev, state, cause, has_waiting, doubted_by IS NOT NULL AS is_doubted, attempts, \
         (SELECT as_of FROM accounts WHERE accounts.did = repos.did) AS status_as_of FROM repos \
         WHERE (state IN ('desynchronized', 'resyncing', 'throttled') OR has_waiting = 1 \
             OR doubted_by IS NOT NULL) \
         AND (retry_at IS NULL OR retry_at <= ?) \
         AND NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0) \
         ORDER BY cause IS 'backfill', retry_at LIMIT ?",
    )
    .bind(sortable(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    rows.into_iter().map(Unsettled::try_from).collect()
}

impl TryFrom<Row> for Unsettled {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let state = RepoState::parse(&row.state)
            .ok_or_else(|| StoreError::Corrupt(format!("repository state {:?}", row.state)))?;
        Ok(Self {
            did: parse_did(&row.did)?,
            state,
            rev: row.rev,
            status_as_of: row.status_as_of.and_then(|text| text.parse().ok()),
            cause: row.cause,
            has_waiting: row.has_waiting,
            is_doubted: row.is_doubted,
            attempts: row.attempts,
        })
    }
}

pub(super) fn parse_did(did: &str) -> Result<Did, StoreError> {
    Did::parse(did).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) async fn desynchronize(
    writer: &Writer,
    did: &Did,
    cause: &str,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "INSERT INTO repos (did, state, cause, updated_at) VALUES (?1, 'desynchronized', ?2, ?3) \
         ON CONFLICT (did) DO UPDATE SET state = 'desynchronized', cause = ?2, doubted_by = NULL, \
         retry_at = NULL, updated_at = ?3",
    )
    .bind(did.as_str())
    .bind(cause)
    .bind(now())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn begin(writer: &Writer, did: &Did) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query("UPDATE repos SET state = 'resyncing', updated_at = ?2 WHERE did = ?1")
        .bind(did.as_str())
        .bind(now())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
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

/// What waits may not follow even so: then it was in vain once more.
async fn move_state(
    connection: &mut SqliteConnection,
    resync: &Resync,
    now: &str,
) -> Result<(), sqlx::Error> {
    match &resync.outcome {
        Ok(done) => {
            sqlx::query(
                "UPDATE repos SET state = 'synchronized', rev = ?2, data = ?3, seq = NULL, is_whole = 1, \
                 source = ?4, time = ?5, doubted_by = NULL, retry_at = NULL, \
                 attempts = iif(has_waiting, attempts, 0), updated_at = ?6 WHERE did = ?1",
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
                 updated_at = ?4 WHERE did = ?1",
            )
            .bind(resync.did.as_str())
            .bind(state.as_str())
            .bind(sortable(failure.retry_at))
            .bind(now)
            .execute(&mut *connection)
            .await?;
            if failure.is_gone {
                sqlx::query(
                    "DELETE FROM repos WHERE did = ?1 AND rev IS NULL AND has_waiting = 0 \
                     AND cause IN ('backfill', 'refused') AND NOT EXISTS (SELECT 1 FROM records WHERE did = ?1)",
                )
                .bind(resync.did.as_str())
                .execute(&mut *connection)
                .await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn first_waiting(
    store: &SqliteStore,
    did: &Did,
) -> Result<Option<Waiting>, StoreError> {
    let row: Option<(i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT id, source, frame FROM waiting_commits WHERE did = ? ORDER BY id LIMIT 1",
    )
    .bind(did.as_str())
    .fetch_optional(store.reader())
    .await?;
    Ok(row.map(|(id, source, frame)| Waiting {
        id,
        did: did.clone(),
        source: SourceId::new(&source),
        frame: frame.into(),
    }))
}

pub(super) async fn settle_waiting(
    writer: &Writer,
    waiting: &Waiting,
    effects: &[Effect],
) -> Result<Settled, StoreError> {
    let mut transaction = writer.begin().await?;
    let settled = settle(&mut transaction, waiting, effects).await;
    conclude(writer, transaction, settled, &waiting.source, effects).await
}

async fn settle(
    transaction: &mut Transaction<'_>,
    waiting: &Waiting,
    effects: &[Effect],
) -> Result<Settled, sqlx::Error> {
    let written = write_effects(transaction, &waiting.source, effects, Origin::Queue).await?;
    if written.waiting > 0 {
        return Ok(Settled::Held);
    }
    sqlx::query("DELETE FROM waiting_commits WHERE id = ?")
        .bind(waiting.id)
        .execute(&mut **transaction)
        .await?;
    finish_queue(transaction, &waiting.did).await?;
    Ok(Settled::Done)
}

/// Opens the way for the stream where nothing waits any more.
pub(super) async fn finish_queue(
    connection: &mut SqliteConnection,
    did: &Did,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE repos SET has_waiting = 0, attempts = 0, retry_at = NULL WHERE did = ?1 \
         AND NOT EXISTS (SELECT 1 FROM waiting_commits WHERE did = ?1)",
    )
    .bind(did.as_str())
    .execute(&mut *connection)
    .await?;
    forget_empty(connection, did).await
}

/// Tracked is what has, or had, something that is kept.
async fn forget_empty(connection: &mut SqliteConnection, did: &Did) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM repos WHERE did = ?1 AND state IN ('synchronized', 'unchained') \
         AND has_waiting = 0 AND NOT EXISTS (SELECT 1 FROM records WHERE did = ?1)",
    )
    .bind(did.as_str())
    .execute(&mut *connection)
    .await?;
    Ok(())
}

pub(super) async fn postpone(
    writer: &Writer,
    did: &Did,
    until: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query("UPDATE repos SET retry_at = ?2, attempts = attempts + 1 WHERE did = ?1")
        .bind(did.as_str())
        .bind(sortable(until))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

pub(super) async fn settle_doubt(writer: &Writer, did: &Did) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query("UPDATE repos SET doubted_by = NULL, retry_at = NULL WHERE did = ?")
        .bind(did.as_str())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
