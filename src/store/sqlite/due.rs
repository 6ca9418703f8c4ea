//! Which repositories have a job due, and when.

use jiff::{SignedDuration, Timestamp};

use super::{SqliteStore, count};
use crate::atproto::syntax::Did;
use crate::model::SourceId;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::plan::Moment;
use crate::store::repo_store::{DueRepo, JobKind, ParkedCommit, ResyncCause};

/// The DIDs of a page of tracked repositories.
const TRACKED_PAGE: i64 = 10_000;

/// A page is one row, since sqlx returns rows one by one.
pub(super) async fn tracked_behind(
    store: &SqliteStore,
    did: &str,
) -> Result<Vec<String>, StoreError> {
    let page: String = sqlx::query_scalar(
        "SELECT json_group_array(did) FROM \
         (SELECT did FROM repos WHERE did > ?1 ORDER BY did LIMIT ?2)",
    )
    .bind(did)
    .bind(TRACKED_PAGE)
    .fetch_one(store.reader())
    .await?;
    serde_json::from_str(&page).map_err(|error| sqlx::Error::Decode(error.into()).into())
}

/// A row of `repos` as it is stored.
#[derive(sqlx::FromRow)]
struct Row {
    did: String,
    rev: Option<String>,
    is_proven: bool,
    is_active: bool,
    status_as_of: Option<String>,
    cause: Option<String>,
    recheck_cause: Option<i64>,
    attempts: i64,
    was_verified: bool,
    parked: i64,
}

pub(super) async fn due(
    store: &SqliteStore,
    kind: JobKind,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<DueRepo>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT repos.did, rev, is_proven, coalesce(active, 1) AS is_active, as_of AS status_as_of, \
         cause, recheck_cause, repos.attempts, \
         (rev IS NOT NULL AND state <> 'unverified_chain') OR EXISTS (SELECT 1 FROM records \
             WHERE uri > 'at://' || repos.did || '/' AND uri < 'at://' || repos.did || '0' \
             AND verified <> 'none') AS was_verified, \
         coalesce((SELECT commits FROM parked_repos WHERE did = repos.did), 0) AS parked \
         FROM repos LEFT JOIN accounts ON accounts.did = repos.did \
         WHERE urgency = ?1 AND (repos.retry_at IS NULL OR repos.retry_at <= ?2 \
         OR repos.retry_at > ?3) ORDER BY repos.retry_at LIMIT ?4",
    )
    .bind(as_stored(kind))
    .bind(sortable(now))
    .bind(latest_retry(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let moment = Moment::at(now);
    let repos = rows.into_iter().map(|row| row.into_due(moment));
    repos.collect()
}

/// No job is put off further than this. A later `retry_at` was written while our clock was ahead, or
/// by an earlier version that meant "never", so its time has come.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_hours(24);

/// Chooses whole repositories of which nothing is due, at random.
const SAMPLE: &str = "UPDATE repos SET recheck_cause = 0, retry_at = NULL, attempts = 0 \
     WHERE did IN (SELECT did FROM repos WHERE state = 'synchronized' AND urgency IS NULL \
     AND NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND accounts.active = 0) \
     ORDER BY random() LIMIT ?)";

pub(super) async fn recheck_sample(store: &SqliteStore, count: u32) -> Result<u64, StoreError> {
    let mut transaction = store.writer.begin().await?;
    let marked = sqlx::query(SAMPLE)
        .bind(count)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(marked.rows_affected())
}

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

impl Row {
    /// What lies ahead was stored by an earlier version, and counts only as far as it is credible.
    fn into_due(self, moment: Moment) -> Result<DueRepo, StoreError> {
        let time = |text: Option<String>| {
            let time: Option<Timestamp> = text.and_then(|text| text.parse().ok());
            time.map(|time| time.min(moment.latest_credible))
        };
        let is_bound = |rev: &String| self.is_proven && moment.can_be_proven(rev);
        Ok(DueRepo {
            did: parse_did(&self.did)?,
            is_active: self.is_active,
            rev: self.rev.filter(is_bound),
            status_as_of: time(self.status_as_of),
            cause: self.cause.as_deref().and_then(ResyncCause::parse),
            recheck_cause: self.recheck_cause,
            attempts: count(self.attempts),
            was_verified: self.was_verified,
            parked: self.parked.unsigned_abs(),
        })
    }
}

pub(super) fn parse_did(did: &str) -> Result<Did, StoreError> {
    Did::parse(did).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// As one row: sqlx returns rows one by one, and each may wake the waiting task.
pub(super) async fn parked_lengths(
    store: &SqliteStore,
    did: &Did,
    limit: usize,
) -> Result<Vec<usize>, StoreError> {
    let lengths: String = sqlx::query_scalar(
        "SELECT json_group_array(bytes) FROM ( \
         SELECT bytes FROM kept_parked_commits WHERE did = ? ORDER BY id LIMIT ?)",
    )
    .bind(did.as_str())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_one(store.reader())
    .await?;
    serde_json::from_str(&lengths).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) async fn parked(
    store: &SqliteStore,
    did: &Did,
    limit: usize,
) -> Result<Vec<ParkedCommit>, StoreError> {
    let rows: Vec<ParkedRow> = sqlx::query_as(
        "SELECT id, rev, data, parked.source, frame FROM kept_parked_commits AS parked \
         LEFT JOIN repos ON repos.did = parked.did AND state = 'synchronized' \
         WHERE parked.did = ? ORDER BY id LIMIT ?",
    )
    .bind(did.as_str())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let parked = rows.into_iter().map(|row| ParkedCommit {
        id: row.id,
        did: did.clone(),
        known_head: row.rev.zip(row.data),
        source: SourceId::new(&row.source),
        frame: row.frame.into(),
    });
    Ok(parked.collect())
}

/// A row of `parked_commits`, with the head of its repository.
#[derive(sqlx::FromRow)]
struct ParkedRow {
    id: i64,
    rev: Option<String>,
    data: Option<String>,
    source: String,
    frame: Vec<u8>,
}
