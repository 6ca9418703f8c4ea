//! Reads whose handles have to be verified.

use jiff::Timestamp;

use super::SqliteStore;
use super::due::{latest_retry, parse_did};
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::handle_store::{UncheckedHandle, UncheckedPage};

/// The accounts that are looked at in one call.
const LOOKED_AT: usize = 200;

/// A later time than a check is ever due was written while our clock was ahead.
const UNCHECKED: &str = "SELECT repos.did, accounts.handle, coalesce(accounts.active, 1) = 1 AND \
     (handle_check_at IS NULL OR handle_check_at <= ? OR handle_check_at > ?) AS is_due \
     FROM repos LEFT JOIN accounts ON accounts.did = repos.did \
     WHERE repos.did > ? ORDER BY repos.did LIMIT ?";

pub(super) async fn unchecked(
    store: &SqliteStore,
    after: &str,
    now: Timestamp,
    limit: usize,
) -> Result<UncheckedPage, StoreError> {
    let rows: Vec<(String, Option<String>, bool)> = sqlx::query_as(UNCHECKED)
        .bind(sortable(now))
        .bind(latest_retry(now))
        .bind(after)
        .bind(LOOKED_AT as i64)
        .fetch_all(store.reader())
        .await?;
    let mut page = UncheckedPage {
        accounts: Vec::new(),
        through: None,
    };
    for (did, handle, is_due) in rows {
        if is_due {
            let account = parse_did(&did)?;
            page.accounts.push(UncheckedHandle {
                did: account,
                handle,
            });
        }
        page.through = Some(did);
        if page.accounts.len() == limit {
            break;
        }
    }
    Ok(page)
}
