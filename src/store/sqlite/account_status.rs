//! Accounts whose status has to be confirmed, and accounts whose handle has to be looked up.

use jiff::Timestamp;

use super::due::{latest_retry, parse_did};
use super::{SqliteStore, count};
use crate::atproto::syntax::Did;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::plan::{AccountRow, AsOf};
use crate::store::repo_store::{DueHandle, UnconfirmedStatus};

/// The part of a row of `accounts` that a question depends on.
#[derive(sqlx::FromRow)]
struct Row {
    did: String,
    active: bool,
    status: Option<String>,
    as_of: Option<String>,
    held_status: Option<String>,
    is_overridden: bool,
    suspected_status: Option<String>,
    attempts: i64,
}

pub(super) async fn unconfirmed(
    store: &SqliteStore,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<UnconfirmedStatus>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT did, active, status, as_of, held_status, is_overridden, suspected_status, attempts \
         FROM accounts \
         WHERE is_unconfirmed = 1 AND (retry_at IS NULL OR retry_at <= ?1 OR retry_at > ?2) \
         ORDER BY retry_at LIMIT ?3",
    )
    .bind(sortable(now))
    .bind(latest_retry(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let unconfirmed = rows.into_iter().map(|row| {
        let did = parse_did(&row.did)?;
        let account = AccountRow {
            is_active: row.active,
            status: row.status,
            as_of: row.as_of.map(|time| AsOf {
                source: None,
                seq: 0,
                time,
            }),
            held_status: row.held_status,
            is_overridden: row.is_overridden,
            suspected_status: row.suspected_status,
            attempts: count(row.attempts),
            ..AccountRow::default()
        };
        Ok(account.question(did))
    });
    unconfirmed.collect()
}

/// What is known of an account's status, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct AccountStatus {
    pub active: bool,
    pub status: Option<String>,
    /// What the source says, if it holds the account.
    pub held_status: Option<String>,
    pub is_overridden: bool,
    pub is_unconfirmed: bool,
    /// What the account's host said, if that is not confirmed.
    pub suspected_status: Option<String>,
}

impl SqliteStore {
    /// The status of an account; `None` if no event spoke of it.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn account_status(&self, did: &Did) -> Result<Option<AccountStatus>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT active, status, held_status, is_overridden, is_unconfirmed, suspected_status \
             FROM accounts WHERE did = ?",
        )
        .bind(did.as_str())
        .fetch_optional(self.reader())
        .await?)
    }
}

pub(super) async fn due_handles(
    store: &SqliteStore,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<DueHandle>, StoreError> {
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT did, handle_as_of FROM accounts \
         WHERE handle_due_at IS NOT NULL AND (handle_due_at <= ?1 OR handle_due_at > ?2) \
         AND EXISTS (SELECT 1 FROM repos WHERE repos.did = accounts.did) \
         ORDER BY handle_due_at LIMIT ?3",
    )
    .bind(sortable(now))
    .bind(latest_retry(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let due = rows.into_iter().map(|(did, as_of)| {
        let did = parse_did(&did)?;
        Ok(DueHandle { did, as_of })
    });
    due.collect()
}
