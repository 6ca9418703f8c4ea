//! Which repositories somebody has to see to, and when.

use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::writer::Writer;
use super::{SqliteStore, now};
use crate::atproto::syntax::Did;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repos::{DueRepo, JobKind};

/// Later than any time there is.
const NEVER: &str = "9999-12-31T23:59:59.999Z";

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
    is_active: bool,
    status_as_of: Option<String>,
    removed_at: Option<String>,
    cause: Option<String>,
    recheck_cause: Option<i64>,
    attempts: u32,
}

pub(super) async fn due(
    store: &SqliteStore,
    urgency: JobKind,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<DueRepo>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT repos.did, rev, coalesce(active, 1) AS is_active, as_of AS status_as_of, removed_at, \
         cause, recheck_cause, repos.attempts FROM repos LEFT JOIN accounts ON accounts.did = repos.did \
         WHERE urgency = ? AND (repos.retry_at IS NULL OR repos.retry_at <= ?) \
         ORDER BY repos.retry_at LIMIT ?",
    )
    .bind(as_stored(urgency))
    .bind(sortable(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    rows.into_iter().map(DueRepo::try_from).collect()
}

/// See the column `urgency`.
fn as_stored(urgency: JobKind) -> i64 {
    match urgency {
        JobKind::Replay => 0,
        JobKind::Resync => 1,
        JobKind::Recheck => 2,
        JobKind::Backfill => 3,
    }
}

impl TryFrom<Row> for DueRepo {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let time = |text: Option<String>| text.and_then(|text| text.parse().ok());
        Ok(Self {
            did: parse_did(&row.did)?,
            is_active: row.is_active,
            rev: row.rev,
            status_as_of: time(row.status_as_of),
            removed_at: time(row.removed_at),
            cause: row.cause,
            recheck_cause: row.recheck_cause,
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
         ON CONFLICT (did) DO UPDATE SET state = 'desynchronized', cause = ?2, recheck_cause = NULL, \
         retry_at = NULL, updated_at = ?3",
    )
    .bind(did.as_str())
    .bind(cause)
    .bind(now())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn retry_later(
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

pub(super) async fn finish_recheck(writer: &Writer, repo: &DueRepo) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE repos SET recheck_cause = NULL, retry_at = NULL, attempts = 0 \
         WHERE did = ? AND recheck_cause IS ?",
    )
    .bind(repo.did.as_str())
    .bind(repo.recheck_cause)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn reschedule(
    writer: &Writer,
    did: &Did,
    until: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE repos SET retry_at = ?2, \
         state = iif(state IN ('desynchronized', 'resyncing'), 'throttled', state) WHERE did = ?1",
    )
    .bind(did.as_str())
    .bind(sortable(until))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn suspend_until_active(writer: &Writer, did: &Did) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    // It may have come back since somebody looked.
    sqlx::query(
        "UPDATE repos SET retry_at = ?2 WHERE did = ?1 \
         AND EXISTS (SELECT 1 FROM accounts WHERE accounts.did = ?1 AND active = 0)",
    )
    .bind(did.as_str())
    .bind(NEVER)
    .execute(&mut *transaction)
    .await?;
    // What was said of it when nothing of it was kept was never looked into.
    sqlx::query("UPDATE accounts SET is_unconfirmed = 1 WHERE did = ? AND active = 0")
        .bind(did.as_str())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

pub(super) async fn untrack(writer: &Writer, did: &Did) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query("DELETE FROM parked_commits WHERE did = ?")
        .bind(did.as_str())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "UPDATE repos SET state = 'unverified_chain', has_parked = 0, recheck_cause = NULL, retry_at = NULL, \
         attempts = 0, updated_at = ?2 WHERE did = ?1",
    )
    .bind(did.as_str())
    .bind(now())
    .execute(&mut *transaction)
    .await?;
    forget_empty(&mut transaction, did).await?;
    transaction.commit().await
}

/// Tracked is what has, or had, something that is kept.
pub(super) async fn forget_empty(
    connection: &mut SqliteConnection,
    did: &Did,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM repos WHERE did = ?1 AND state IN ('synchronized', 'unverified_chain') \
         AND has_parked = 0 AND NOT EXISTS (SELECT 1 FROM records WHERE did = ?1)",
    )
    .bind(did.as_str())
    .execute(&mut *connection)
    .await?;
    Ok(())
}
