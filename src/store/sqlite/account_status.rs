//! Accounts whose status their own hosts have not confirmed yet.

use jiff::Timestamp;

use super::SqliteStore;
use super::due::parse_did;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repo_store::UnconfirmedStatus;

pub(super) async fn all(
    store: &SqliteStore,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<UnconfirmedStatus>, StoreError> {
    let rows: Vec<(String, Option<String>, String, u32)> = sqlx::query_as(
        "SELECT did, status, as_of, attempts FROM accounts \
         WHERE is_unconfirmed = 1 AND (retry_at IS NULL OR retry_at <= ?) ORDER BY retry_at LIMIT ?",
    )
    .bind(sortable(now))
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
