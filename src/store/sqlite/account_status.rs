//! Accounts whose status their own hosts have not confirmed yet.

use jiff::Timestamp;

use super::SqliteStore;
use super::due::{latest_retry, parse_did};
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::plan::NEVER;
use crate::store::repo_store::UnconfirmedStatus;

pub(super) async fn all(
    store: &SqliteStore,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<UnconfirmedStatus>, StoreError> {
    let rows: Vec<(String, Option<String>, String, u32)> = sqlx::query_as(
        "SELECT did, status, as_of, attempts FROM accounts \
         WHERE is_unconfirmed = 1 AND (retry_at IS NULL OR retry_at <= ?1 \
         OR (retry_at > ?2 AND retry_at < ?3)) ORDER BY retry_at LIMIT ?4",
    )
    .bind(sortable(now))
    .bind(latest_retry(now))
    .bind(NEVER)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let unconfirmed = rows.into_iter().map(|(did, status, as_of, attempts)| {
        Ok(UnconfirmedStatus {
            did: parse_did(&did)?,
            status,
            as_of,
            attempts,
        })
    });
    unconfirmed.collect()
}
