//! Which repositories have a job due, and when.

use jiff::{SignedDuration, Timestamp};

use super::SqliteStore;
use crate::atproto::syntax::Did;
use crate::model::SourceId;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repo_store::{DueRepo, JobKind, ParkedCommit, ResyncCause};

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
    kind: JobKind,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<DueRepo>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT repos.did, rev, coalesce(active, 1) AS is_active, as_of AS status_as_of, removed_at, \
         cause, recheck_cause, repos.attempts FROM repos LEFT JOIN accounts ON accounts.did = repos.did \
         WHERE urgency = ?1 AND (repos.retry_at IS NULL OR repos.retry_at <= ?2 \
         OR repos.retry_at > ?3) ORDER BY repos.retry_at LIMIT ?4",
    )
    .bind(as_stored(kind))
    .bind(sortable(now))
    .bind(latest_retry(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    rows.into_iter().map(DueRepo::try_from).collect()
}

/// No job is put off further than this. A later `retry_at` was written while our clock was ahead, or
/// by an earlier version that meant "never", so its time has come.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_hours(24);

/// The latest `retry_at` that is waited for.
pub(super) fn latest_retry(now: Timestamp) -> String {
    sortable(now.saturating_add(LONGEST_DELAY).unwrap_or(Timestamp::MAX))
}

/// The value of the column `urgency`, which migration 0011 defines.
fn as_stored(kind: JobKind) -> i64 {
    match kind {
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
            cause: row.cause.as_deref().and_then(ResyncCause::parse),
            recheck_cause: row.recheck_cause,
            attempts: row.attempts,
        })
    }
}

pub(super) fn parse_did(did: &str) -> Result<Did, StoreError> {
    Did::parse(did).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) async fn first_parked(
    store: &SqliteStore,
    did: &Did,
) -> Result<Option<ParkedCommit>, StoreError> {
    let row: Option<(i64, Option<String>, String, Vec<u8>)> = sqlx::query_as(
        "SELECT id, (SELECT rev FROM repos WHERE repos.did = parked_commits.did \
         AND state = 'synchronized'), source, frame \
         FROM parked_commits WHERE did = ? ORDER BY id LIMIT 1",
    )
    .bind(did.as_str())
    .fetch_optional(store.reader())
    .await?;
    Ok(row.map(|(id, known_rev, source, frame)| ParkedCommit {
        id,
        did: did.clone(),
        known_rev,
        source: SourceId::new(&source),
        frame: frame.into(),
    }))
}
