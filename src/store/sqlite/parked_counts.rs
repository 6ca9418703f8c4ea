//! Counts the parked commits by what they wait for, and the bytes of those that wait for the PLC
//! directory.

use super::SqliteStore;
use crate::model::ParkedCounts;
use crate::store::StoreError;

/// A row for each reason. No frame is read: the commits of each repository are counted already, and
/// the index of the DIDs has the first of them.
const BY_REASON: &str = "SELECT CASE WHEN accounts.active = 0 THEN 'inactive' \
         WHEN repos.state IN ('desynchronized', 'resyncing', 'throttled') THEN 'repository' \
         ELSE 'key' END AS reason, sum(parked.commits), \
         min((SELECT min(id) FROM parked_commits WHERE did = parked.did)) \
     FROM parked_repos AS parked \
     LEFT JOIN repos ON repos.did = parked.did \
     LEFT JOIN accounts ON accounts.did = parked.did \
     GROUP BY reason";

pub(super) async fn parked_counts(store: &SqliteStore) -> Result<ParkedCounts, StoreError> {
    let rows: Vec<(String, i64, Option<i64>)> =
        sqlx::query_as(BY_REASON).fetch_all(store.reader()).await?;
    let mut counts = ParkedCounts::default();
    let mut first: Option<i64> = None;
    for (reason, commits, id) in rows {
        let commits = commits.unsigned_abs();
        match reason.as_str() {
            "inactive" => counts.inactive = commits,
            "repository" => counts.repository = commits,
            _ => counts.key = commits,
        }
        // Those of inactive accounts are late for nothing.
        if reason != "inactive" {
            first = first.into_iter().chain(id).min();
        }
    }
    if let Some(first) = first {
        let parked_at: Option<String> =
            sqlx::query_scalar("SELECT created_at FROM parked_commits WHERE id = ?")
                .bind(first)
                .fetch_optional(store.reader())
                .await?;
        counts.oldest_at = parked_at.and_then(|time| time.parse().ok());
    }
    Ok(counts)
}

pub(super) async fn bytes_awaiting_directory(store: &SqliteStore) -> Result<u64, StoreError> {
    let bytes: Option<i64> =
        sqlx::query_scalar("SELECT bytes FROM parked_totals WHERE reason = 'directory'")
            .fetch_optional(store.reader())
            .await?;
    Ok(bytes.unwrap_or_default().unsigned_abs())
}
