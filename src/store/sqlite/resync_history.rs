//! Reads what a resync needs to know of a repository.

use jiff::Timestamp;

use super::{SqliteStore, now};
use crate::atproto::syntax::Did;
use crate::model::Judgement;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repo_store::{Held, HeldRange, RecentResyncs};

pub(super) async fn since(
    store: &SqliteStore,
    did: &Did,
    since: Timestamp,
) -> Result<RecentResyncs, StoreError> {
    let (count, bytes, last_ended_at): (u32, i64, Option<String>) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(bytes), 0), max(ended_at) FROM resyncs \
         WHERE did = ? AND ended_at >= ? AND ended_at <= ?",
    )
    .bind(did.as_str())
    .bind(sortable(since))
    // A later time was written while our clock was ahead.
    .bind(now())
    .fetch_one(store.reader())
    .await?;
    Ok(RecentResyncs {
        count,
        bytes: bytes.unsigned_abs(),
        last_ended_at: last_ended_at.and_then(|text| text.parse().ok()),
    })
}

/// A row of `records`, as far as a resync looks at it.
#[derive(sqlx::FromRow)]
struct Row {
    uri: String,
    cid: Option<String>,
    refused_cid: Option<String>,
    judgement: Option<i64>,
    rev: String,
    is_proven: bool,
}

/// Reads a range of records. The URIs of one repository sort like its paths, so the table's key
/// gives the order.
pub(super) async fn held(
    store: &SqliteStore,
    range: HeldRange<'_>,
) -> Result<Vec<Held>, StoreError> {
    let uri = |path: &str| format!("at://{}/{path}", range.did);
    // '0' is the character after '/'.
    let end = || format!("at://{}0", range.did);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT uri, cid, refused_cid, judgement, rev, verified <> 'none' AS is_proven \
         FROM records WHERE uri > ? AND uri <= ? AND NOT EXISTS (SELECT 1 FROM removed_records \
         WHERE removed_records.did = records.did AND removed_records.uri = records.uri) \
         ORDER BY uri LIMIT ?",
    )
    .bind(uri(range.after))
    .bind(range.through.map_or_else(end, uri))
    .bind(i64::try_from(range.limit).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await?;
    let root = uri("").len();
    let held = rows.into_iter().map(|row| Held {
        path: row.uri.get(root..).unwrap_or_default().to_owned(),
        cid: row.cid,
        refused_cid: row.refused_cid,
        judgement: row.judgement.map(Judgement::from_stored),
        rev: row.rev,
        is_proven: row.is_proven,
    });
    Ok(held.collect())
}
