//! The table of identities: a cache of what the directory said, bounded by its rows.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use url::Url;

use super::SqliteStore;
use super::multi_row::MultiRow;
use super::script::{Script, Value, json_array};
use super::writer::{Failure, Transaction, Writer};
use crate::atproto::syntax::Did;
use crate::identity::{Identity, IdentityChange, StoredIdentity};
use crate::store::StoreError;
use crate::store::datetime::sortable;

static IDENTITIES: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO identities",
        &[
            "did",
            "signing_key",
            "pds",
            "handle",
            "looked_up_at",
            "is_imported",
        ],
        "ON CONFLICT (did) DO UPDATE SET signing_key = excluded.signing_key, \
         pds = excluded.pds, handle = excluded.handle, looked_up_at = excluded.looked_up_at, \
         is_imported = excluded.is_imported",
    )
});

/// The identities of a page.
const PAGE: usize = 5_000;

/// A row of `identities`. The fields are in the order of the columns of a page.
#[derive(Deserialize)]
struct Row {
    did: String,
    signing_key: String,
    pds: Option<String>,
    handle: Option<String>,
    looked_up_at: String,
}

impl Row {
    /// `None` if another program wrote it. The account is then looked up.
    fn into_stored(self) -> Option<StoredIdentity> {
        let did = Did::parse(&self.did).ok()?;
        let pds = self.pds.map(|pds| Url::parse(&pds)).transpose().ok()?;
        let identity = Identity {
            pds,
            // Earlier versions kept it as the document wrote it.
            handle: self.handle.map(|handle| handle.to_ascii_lowercase()),
            ..Identity::new(did, self.signing_key)
        };
        Some(StoredIdentity {
            identity: Arc::new(identity),
            looked_up_at: self.looked_up_at.parse().ok()?,
        })
    }
}

pub(super) async fn load(
    store: &SqliteStore,
    limit: usize,
) -> Result<Vec<StoredIdentity>, StoreError> {
    let mut newest_first = Vec::new();
    let mut left = limit;
    // '~' is behind every time and every DID.
    let mut last = ("~".to_owned(), "~".to_owned());
    while left > 0 {
        let rows = page(store, &last, left.min(PAGE)).await?;
        left -= rows.len().min(left);
        let Some(row) = rows.last() else { break };
        last = (row.looked_up_at.clone(), row.did.clone());
        newest_first.extend(rows.into_iter().filter_map(Row::into_stored));
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// The next identities that were looked up before `last`, its time and its DID. A page is one row,
/// since sqlx returns rows one by one.
async fn page(
    store: &SqliteStore,
    last: &(String, String),
    limit: usize,
) -> Result<Vec<Row>, StoreError> {
    let page: String = sqlx::query_scalar(
        "SELECT json_group_array(json_array(did, signing_key, pds, handle, looked_up_at)) FROM ( \
         SELECT did, signing_key, pds, handle, looked_up_at FROM identities \
         WHERE (looked_up_at, did) < (?1, ?2) ORDER BY looked_up_at DESC, did DESC LIMIT ?3)",
    )
    .bind(&last.0)
    .bind(&last.1)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_one(store.reader())
    .await?;
    serde_json::from_str(&page).map_err(|error| sqlx::Error::Decode(error.into()).into())
}

pub(super) async fn save(
    writer: &Writer,
    take: &(dyn Fn() -> Vec<IdentityChange> + Send + Sync),
) -> Result<usize, StoreError> {
    let transaction = writer.begin().await?;
    let changes = take();
    let mut script = Script::default();
    push(&mut script, &changes, false);
    commit(transaction, script).await?;
    Ok(changes.len())
}

/// Appends the statements that write `changes`.
pub(super) fn push(script: &mut Script, changes: &[IdentityChange], is_imported: bool) {
    let stored: Vec<&StoredIdentity> = changes
        .iter()
        .filter_map(|change| match change {
            IdentityChange::Store(stored) => Some(stored),
            IdentityChange::Delete(_) => None,
        })
        .collect();
    script.push_rows(&IDENTITIES, &stored, |stored, values| {
        push_row(values, stored, is_imported);
    });
    let deleted = changes.iter().filter_map(|change| match change {
        IdentityChange::Delete(did) => Some(did.as_str()),
        IdentityChange::Store(_) => None,
    });
    push_void(script, deleted);
}

/// Appends the statement that deletes the identities of `dids`, if there are any.
pub(super) fn push_void<'a>(script: &mut Script, dids: impl Iterator<Item = &'a str>) {
    let mut dids = dids.peekable();
    if dids.peek().is_some() {
        let statement = "DELETE FROM identities WHERE did IN (SELECT value FROM json_each(?))";
        script.push(statement, [json_array(dids)]);
    }
}

fn push_row(values: &mut Vec<Value>, stored: &StoredIdentity, is_imported: bool) {
    let identity = &stored.identity;
    values.extend([
        identity.did.as_str().into(),
        identity.signing_key.as_str().into(),
        identity.pds.as_ref().map(Url::as_str).into(),
        identity.handle.as_deref().into(),
        sortable(stored.looked_up_at).into(),
        is_imported.into(),
    ]);
}

pub(super) async fn trim(writer: &Writer, capacity: usize) -> Result<u64, StoreError> {
    let mut transaction = writer.begin().await?;
    let deleted = sqlx::query(
        "DELETE FROM identities WHERE did IN (SELECT did FROM identities ORDER BY looked_up_at \
         LIMIT max(0, (SELECT count(*) FROM identities) - ?1))",
    )
    .bind(i64::try_from(capacity).unwrap_or(i64::MAX))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(deleted.rows_affected())
}

pub(super) async fn commit(transaction: Transaction<'_>, script: Script) -> Result<(), StoreError> {
    match transaction.commit_with(script).await {
        Ok(()) => Ok(()),
        Err(Failure::Store(error)) => Err(error),
        Err(Failure::Refused(error)) => Err(error.into()),
    }
}
