//! Commits that wait for a key, or for their repository to be fetched.

use std::collections::BTreeSet;

use sqlx::sqlite::SqliteConnection;

use super::apply::{Origin, conclude, write_effects};
use super::due::forget_empty;
use super::writer::{Transaction, Writer};
use super::{SqliteStore, integer};
use crate::protocol::syntax::Did;
use crate::queue::effect::{ChainUpdate, Effect};
use crate::source::SourceId;
use crate::store::StoreError;
use crate::store::repos::{Settled, Waiting};

/// So many bytes of one repository's frames wait at most, and of all of them together. Beyond that those
/// of the repository are dropped, and it is fetched as a whole, which brings the same.
const MAX_WAITING_OF_ONE: i64 = 16 << 20;
const MAX_WAITING: i64 = 1 << 30;

/// Has `steps` wait. Where too much waits, all of theirs is dropped.
pub(super) async fn add<'a>(
    connection: &mut SqliteConnection,
    source: &SourceId,
    steps: impl Iterator<Item = &'a ChainUpdate>,
    now: &str,
) -> Result<(), sqlx::Error> {
    let mut dids = BTreeSet::new();
    for step in steps {
        // One that is replayed waits already.
        sqlx::query(
            "INSERT INTO waiting_commits (did, source, seq, bytes, frame, created_at) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM waiting_commits \
             WHERE did = ?1 AND seq = ?3 AND frame = ?5)",
        )
        .bind(step.did.as_str())
        .bind(source.as_str())
        .bind(integer(step.seq))
        .bind(integer(step.frame.len() as u64))
        .bind(step.frame.as_ref())
        .bind(now)
        .execute(&mut *connection)
        .await?;
        dids.insert(step.did.as_str());
    }
    if dids.is_empty() {
        return Ok(());
    }
    let is_full: bool =
        sqlx::query_scalar("SELECT coalesce(sum(bytes), 0) > ? FROM waiting_commits")
            .bind(MAX_WAITING)
            .fetch_one(&mut *connection)
            .await?;
    for did in dids {
        let has_too_much: bool = sqlx::query_scalar(
            "SELECT coalesce(sum(bytes), 0) > ? FROM waiting_commits WHERE did = ?",
        )
        .bind(MAX_WAITING_OF_ONE)
        .bind(did)
        .fetch_one(&mut *connection)
        .await?;
        if is_full || has_too_much {
            overflow(connection, did, now).await?;
        }
    }
    Ok(())
}

async fn overflow(
    connection: &mut SqliteConnection,
    did: &str,
    now: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM waiting_commits WHERE did = ?")
        .bind(did)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "UPDATE repos SET has_waiting = 0, state = 'desynchronized', cause = 'overflow', \
         updated_at = ?2 WHERE did = ?1",
    )
    .bind(did)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

pub(super) async fn first(store: &SqliteStore, did: &Did) -> Result<Option<Waiting>, StoreError> {
    let row: Option<(i64, Option<String>, String, Vec<u8>)> = sqlx::query_as(
        "SELECT id, (SELECT rev FROM repos WHERE repos.did = waiting_commits.did \
         AND state = 'synchronized'), source, frame \
         FROM waiting_commits WHERE did = ? ORDER BY id LIMIT 1",
    )
    .bind(did.as_str())
    .fetch_optional(store.reader())
    .await?;
    Ok(row.map(|(id, known_rev, source, frame)| Waiting {
        id,
        did: did.clone(),
        known_rev,
        source: SourceId::new(&source),
        frame: frame.into(),
    }))
}

pub(super) async fn settle(
    writer: &Writer,
    waiting: &Waiting,
    effects: &[Effect],
) -> Result<Settled, StoreError> {
    let mut transaction = writer.begin().await?;
    let settled = apply(&mut transaction, waiting, effects).await;
    conclude(writer, transaction, settled, &waiting.source, effects).await
}

async fn apply(
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

pub(super) async fn finish(writer: &Writer, did: &Did) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    finish_queue(&mut transaction, did).await?;
    transaction.commit().await
}

/// Opens the way for the stream where nothing waits any more.
async fn finish_queue(connection: &mut SqliteConnection, did: &Did) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE repos SET has_waiting = 0, attempts = 0, retry_at = NULL WHERE did = ?1 \
         AND NOT EXISTS (SELECT 1 FROM waiting_commits WHERE did = ?1)",
    )
    .bind(did.as_str())
    .execute(&mut *connection)
    .await?;
    forget_empty(connection, did).await
}
