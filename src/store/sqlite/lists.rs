//! Lists for an operator, in pages: the newest rows first.

use serde::Serialize;

use super::{PAGE, SqliteStore};
use crate::store::StoreError;

/// A gap, open or closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct GapRow {
    pub id: i64,
    pub source: String,
    pub cause: String,
    pub from_seq: i64,
    pub from_time: Option<String>,
    pub to_seq: Option<i64>,
    pub to_time: Option<String>,
    pub opened_at: String,
    pub closed_at: Option<String>,
    pub resolution: Option<String>,
}

/// A tracked repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct RepoListRow {
    pub did: String,
    pub handle: Option<String>,
    pub state: String,
    pub cause: Option<String>,
    pub rev: Option<String>,
    pub has_parked: bool,
    pub attempts: i64,
    pub retry_at: Option<String>,
    pub updated_at: String,
}

impl SqliteStore {
    /// Gaps with a higher id, the oldest first, at most `limit`.
    pub(super) async fn gaps_after(
        &self,
        after: i64,
        limit: u32,
    ) -> Result<Vec<GapRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, source, cause, from_seq, from_time, to_seq, to_time, opened_at, closed_at, \
             resolution FROM gaps WHERE id > ? ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(self.reader())
        .await?)
    }

    /// Gaps with an id below `before`, at most `limit`; only those that are open, or all.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn gaps(
        &self,
        only_open: bool,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<GapRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, source, cause, from_seq, from_time, to_seq, to_time, opened_at, closed_at, \
             resolution FROM gaps WHERE id < ?1 AND (?2 = 0 OR closed_at IS NULL) \
             ORDER BY id DESC LIMIT ?3",
        )
        .bind(before.unwrap_or(i64::MAX))
        .bind(only_open)
        .bind(limit.min(PAGE))
        .fetch_all(self.reader())
        .await?)
    }

    /// Tracked repositories whose DIDs come after `after`, at most `limit`, in the order of their DIDs;
    /// those in `state`, or all.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn repos(
        &self,
        state: Option<&str>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RepoListRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT repos.did, handle, state, cause, rev, has_parked, repos.attempts, \
             repos.retry_at, repos.updated_at FROM repos \
             LEFT JOIN accounts ON accounts.did = repos.did \
             WHERE repos.did > ?1 AND (?2 IS NULL OR state = ?2) ORDER BY repos.did LIMIT ?3",
        )
        .bind(after)
        .bind(state)
        .bind(limit.min(PAGE))
        .fetch_all(self.reader())
        .await?)
    }
}
