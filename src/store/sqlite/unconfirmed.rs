//! Accounts of which somebody else than their host says that they are gone.

use jiff::Timestamp;

use super::due::parse_did;
use super::writer::Writer;
use super::{SqliteStore, accounts};
use crate::atproto::syntax::Did;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repos::{HostStatus, UnconfirmedStatus};

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

pub(super) async fn report_inactive(
    writer: &Writer,
    did: &Did,
    status: &str,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "INSERT INTO accounts (did, active, status, as_of, as_of_seq, is_unconfirmed) \
         VALUES (?1, 0, ?2, coalesce((SELECT time FROM repos WHERE did = ?1), ?3), 0, 1) \
         ON CONFLICT (did) DO UPDATE SET active = 0, status = ?2, \
         as_of_seq = iif(as_of >= excluded.as_of, as_of_seq, 0), \
         as_of = max(coalesce(as_of, ''), excluded.as_of), \
         is_unconfirmed = 1, retry_at = NULL, attempts = 0",
    )
    .bind(did.as_str())
    .bind(status)
    .bind(sortable(Timestamp::UNIX_EPOCH))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// What is removed is what the account had at the time of the event, so that what it has made since
/// stays.
pub(super) async fn settle(
    writer: &Writer,
    unconfirmed: &UnconfirmedStatus,
    host_status: &HostStatus,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let (active, status) = match host_status {
        HostStatus::Active => (true, None),
        HostStatus::Deleted => (false, Some("deleted")),
        HostStatus::Inactive(status) => (false, status.as_deref()),
        HostStatus::Unknown(until) => {
            sqlx::query(
                "UPDATE accounts SET retry_at = ?3, attempts = attempts + 1 \
                 WHERE did = ?1 AND as_of = ?2",
            )
            .bind(unconfirmed.did.as_str())
            .bind(&unconfirmed.as_of)
            .bind(sortable(*until))
            .execute(&mut *transaction)
            .await?;
            return transaction.commit().await;
        }
    };
    let settled = sqlx::query(
        "UPDATE accounts SET active = ?3, status = ?4, is_unconfirmed = 0, retry_at = NULL, \
         attempts = 0 WHERE did = ?1 AND as_of = ?2 AND is_unconfirmed = 1",
    )
    .bind(unconfirmed.did.as_str())
    .bind(&unconfirmed.as_of)
    .bind(active)
    .bind(status)
    .execute(&mut *transaction)
    .await?;
    if settled.rows_affected() > 0 {
        match host_status {
            HostStatus::Deleted => {
                let removals = [(&unconfirmed.did, unconfirmed.as_of.clone())].into();
                accounts::remove(&mut transaction, &removals).await?;
            }
            HostStatus::Active => {
                sqlx::query(
                    "UPDATE repos SET state = 'desynchronized', cause = 'returned', \
                     retry_at = NULL, attempts = 0 WHERE did = ?",
                )
                .bind(unconfirmed.did.as_str())
                .execute(&mut *transaction)
                .await?;
            }
            HostStatus::Inactive(_) | HostStatus::Unknown(_) => {}
        }
    }
    transaction.commit().await
}
