//! Counts the parked commits by what they wait for, and the bytes of those that wait for the PLC
//! directory.

use super::SqliteStore;
use crate::model::{ParkedCount, ParkedCounts, ParkedReason};
use crate::store::StoreError;

/// A row for each reason. No frame is read: the commits of each repository are counted already, and
/// the index of the DIDs has the first of them. The key of a `did:web` is at its account's own host.
const BY_REASON: &str = "SELECT reason, commits, \
         (SELECT created_at FROM parked_commits WHERE id = first) AS oldest_at \
     FROM (SELECT CASE WHEN accounts.active = 0 THEN 'inactive' \
             WHEN repos.waits_for_account = 1 THEN 'account' \
             WHEN repos.state IN ('desynchronized', 'resyncing', 'throttled') THEN 'repository' \
             WHEN parked.did LIKE 'did:web:%' THEN 'account' \
             ELSE 'key' END AS reason, \
         sum(parked.commits) AS commits, \
         min((SELECT id FROM kept_parked_commits AS kept WHERE kept.did = parked.did \
             ORDER BY id LIMIT 1)) AS first \
         FROM parked_repos AS parked \
         LEFT JOIN repos ON repos.did = parked.did \
         LEFT JOIN accounts ON accounts.did = parked.did \
         GROUP BY reason)";

pub(super) async fn parked_counts(store: &SqliteStore) -> Result<ParkedCounts, StoreError> {
    let rows: Vec<(String, i64, Option<String>)> =
        sqlx::query_as(BY_REASON).fetch_all(store.reader()).await?;
    let mut counts = ParkedCounts::default();
    for (reason, commits, oldest_at) in rows {
        if let Some(reason) = ParkedReason::parse(&reason) {
            *counts.of_mut(reason) = ParkedCount {
                commits: commits.unsigned_abs(),
                oldest_at: oldest_at.and_then(|time| time.parse().ok()),
            };
        }
    }
    Ok(counts)
}

pub(super) async fn bytes_awaiting_directory(store: &SqliteStore) -> Result<u64, StoreError> {
    let bytes: Option<i64> =
        sqlx::query_scalar("SELECT bytes FROM parked_totals WHERE reason = 'key'")
            .fetch_optional(store.reader())
            .await?;
    Ok(bytes.unwrap_or_default().unsigned_abs())
}
