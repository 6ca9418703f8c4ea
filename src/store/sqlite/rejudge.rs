//! Reads stored records, to be judged again, and keeps by which rules that was done.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;
use sqlx::FromRow;

use super::{SqliteStore, integer};
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::Level;
use crate::model::{Judgement, SourceId};
use crate::store::datetime::sortable;
use crate::store::plan::effect::RecordVersion;
use crate::store::rejudge_store::{Selection, StoredPage, StoredRecord, Verdict};
use crate::store::{PieceLimit, StoreError};

/// The columns of a record, for [`Row`].
macro_rules! record_columns {
    () => {
        "records.did, records.collection, records.rkey, records.rev, records.seq, records.source, \
         records.time, coalesce(records.cid, records.refused_cid) AS cid, records.validity, \
         records.verified, records.judgement, records.last_indexed_at"
    };
}

/// The rows behind a URI, up to a number of rows and of bytes. Rows that are not selected have no bytes.
/// Rows of an account that is being removed are not there for any reader.
const STORED: &str = concat!(
    "WITH near AS (SELECT uri, did, iif(deleted = 0 AND record_cbor IS NOT NULL \
     AND collection >= ? AND collection < ? AND last_indexed_at >= ? AND (? = 0 OR validity = 'invalid'), \
     length(record_cbor), NULL) AS bytes FROM records WHERE uri > ? AND uri < ? ORDER BY uri LIMIT ?), \
     counted AS (SELECT uri, bytes, row_number() OVER (ORDER BY uri) AS number, \
     sum(bytes) OVER (ORDER BY uri) AS total FROM near) \
     SELECT records.uri AS key, iif(counted.bytes IS NULL OR EXISTS (SELECT 1 FROM removed_records \
     WHERE removed_records.did = records.did AND removed_records.uri = records.uri), NULL, \
     record_cbor) AS cbor, NULL AS letter, ",
    record_columns!(),
    " FROM counted JOIN records ON records.uri = counted.uri \
     WHERE number = 1 OR coalesce(total, 0) <= ? ORDER BY records.uri"
);

/// The same of the dead letters behind an id.
const REFUSED: &str = concat!(
    "WITH near AS (SELECT letters.id, letters.uri, length(letters.raw) AS bytes, \
     letters.stage = 'validate' AND letters.created_at >= ? AND records.collection >= ? \
     AND records.collection < ? AND records.uri > ? AND records.uri < ? AND records.deleted = 1 \
     AND length(letters.raw) > 0 AND json_valid(letters.task) \
     AND records.refused_cid = json_extract(letters.task, '$.cid') \
     AND records.rev = json_extract(letters.task, '$.rev') AS is_wanted \
     FROM dead_letters AS letters LEFT JOIN records ON records.uri = letters.uri \
     WHERE letters.id > ? ORDER BY letters.id LIMIT ?), \
     counted AS (SELECT id, uri, is_wanted, row_number() OVER (ORDER BY id) AS number, \
     sum(iif(is_wanted, bytes, 0)) OVER (ORDER BY id) AS total FROM near) \
     SELECT counted.id AS key, iif(is_wanted AND NOT EXISTS (SELECT 1 FROM removed_records \
     WHERE removed_records.did = records.did AND removed_records.uri = records.uri), \
     letters.raw, NULL) AS cbor, counted.id AS letter, ",
    record_columns!(),
    " FROM counted JOIN dead_letters AS letters ON letters.id = counted.id \
     LEFT JOIN records ON records.uri = counted.uri \
     WHERE number = 1 OR coalesce(total, 0) <= ? ORDER BY counted.id"
);

/// The collections, found by one step through the index for each.
const COLLECTIONS: &str = "WITH RECURSIVE kept (name) AS (SELECT min(collection) FROM records \
     UNION ALL SELECT (SELECT min(collection) FROM records WHERE collection > kept.name) FROM kept \
     WHERE kept.name IS NOT NULL) SELECT name FROM kept WHERE name IS NOT NULL";

/// Whether one of the oldest or newest records of a collection was judged by other rules. To look at
/// all of them would take as long as judging them.
const HAS_OTHERS: &str = "SELECT EXISTS (SELECT 1 FROM (SELECT * FROM (SELECT judgement FROM records \
     WHERE collection = ? AND deleted = 0 ORDER BY time LIMIT 20) UNION ALL SELECT * FROM \
     (SELECT judgement FROM records WHERE collection = ? AND deleted = 0 ORDER BY time DESC LIMIT 20)) \
     WHERE judgement IS NOT ?)";

#[derive(FromRow)]
struct Row<K> {
    key: K,
    cbor: Option<Vec<u8>>,
    letter: Option<i64>,
    did: Option<String>,
    collection: Option<String>,
    rkey: Option<String>,
    rev: Option<String>,
    seq: Option<i64>,
    source: Option<String>,
    time: Option<String>,
    cid: Option<String>,
    validity: Option<String>,
    verified: Option<String>,
    judgement: Option<i64>,
    last_indexed_at: Option<String>,
}

pub(super) async fn stored(
    store: &SqliteStore,
    selection: &Selection,
    after: &str,
    limit: PieceLimit,
) -> Result<StoredPage<String>, StoreError> {
    let (collections, uris) = (collections_of(selection), uris_of(selection));
    let rows: Vec<Row<String>> = sqlx::query_as(STORED)
        .bind(collections.start)
        .bind(collections.end)
        .bind(since(selection))
        .bind(selection.is_invalid_only)
        .bind(after.max(uris.start.as_str()))
        .bind(&uris.end)
        .bind(integer(limit.rows))
        .bind(integer(limit.bytes))
        .fetch_all(store.reader())
        .await?;
    Ok(page(rows))
}

pub(super) async fn refused(
    store: &SqliteStore,
    selection: &Selection,
    after: i64,
    limit: PieceLimit,
) -> Result<StoredPage<i64>, StoreError> {
    let (collections, uris) = (collections_of(selection), uris_of(selection));
    let rows: Vec<Row<i64>> = sqlx::query_as(REFUSED)
        .bind(since(selection))
        .bind(collections.start)
        .bind(collections.end)
        .bind(uris.start)
        .bind(uris.end)
        .bind(after)
        .bind(integer(limit.rows))
        .bind(integer(limit.bytes))
        .fetch_all(store.reader())
        .await?;
    Ok(page(rows))
}

pub(super) async fn kept_collections(store: &SqliteStore) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(COLLECTIONS)
        .fetch_all(store.reader())
        .await?)
}

pub(super) async fn compare_rules(
    store: &SqliteStore,
    rules: &[(String, Judgement)],
) -> Result<Vec<String>, StoreError> {
    let known = known_rules(store).await?;
    let (mut changed, mut others) = (Vec::new(), Vec::new());
    for (collection, judgement) in rules {
        let number = judgement.stored();
        let known = known.get(collection).copied();
        let now = match known {
            Some((noted, is_mixed)) => (noted, is_mixed || noted != number),
            None => (number, has_others(store, collection, number).await?),
        };
        if known != Some(now) {
            changed.push((collection.as_str(), now.0, now.1));
        }
        if now.1 {
            others.push(collection.clone());
        }
    }
    note(store, &changed).await?;
    Ok(others)
}

pub(super) async fn note_rules(
    store: &SqliteStore,
    rules: &[(String, Judgement)],
) -> Result<(), StoreError> {
    let rules = rules.iter();
    let rules = rules.map(|(collection, judgement)| (&**collection, judgement.stored(), false));
    note(store, &rules.collect::<Vec<_>>()).await
}

pub(super) async fn restart_reprocessings(
    store: &SqliteStore,
    rules: Judgement,
) -> Result<(), StoreError> {
    let mut transaction = store.writer.begin().await?;
    sqlx::query(
        "UPDATE commands SET progress = NULL WHERE kind = 'reprocess' AND ended_at IS NULL \
         AND progress ->> 'rules' <> ?",
    )
    .bind(rules.stored())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// The judgement that was noted of each collection, and whether some records have another one.
async fn known_rules(store: &SqliteStore) -> Result<HashMap<String, (i64, bool)>, StoreError> {
    let rules = sqlx::query_as("SELECT collection, judgement, is_mixed FROM collection_rules");
    let rules: Vec<(String, i64, bool)> = rules.fetch_all(store.reader()).await?;
    let rules = rules.into_iter();
    Ok(rules
        .map(|(collection, judgement, is_mixed)| (collection, (judgement, is_mixed)))
        .collect())
}

async fn has_others(
    store: &SqliteStore,
    collection: &str,
    judgement: i64,
) -> Result<bool, StoreError> {
    let query = sqlx::query_scalar(HAS_OTHERS);
    let query = query.bind(collection).bind(collection).bind(judgement);
    Ok(query.fetch_one(store.reader()).await?)
}

/// Writes rows of `collection_rules`.
async fn note(store: &SqliteStore, rows: &[(&str, i64, bool)]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = serde_json::json!(rows).to_string();
    let mut transaction = store.writer.begin().await?;
    sqlx::query(
        "REPLACE INTO collection_rules (collection, judgement, is_mixed) \
         SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
    )
    .bind(rows)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// The collections that a selection has, as text between two others.
fn collections_of(selection: &Selection) -> Range<String> {
    match &selection.collection {
        // Letters, digits, dots and hyphens come behind '!' and before the last character.
        None => String::new()..char::MAX.to_string(),
        Some(Pattern::Exact(nsid)) => nsid.to_string()..format!("{nsid}!"),
        Some(Pattern::Prefix(prefix)) => prefix.to_string()..format!("{prefix}{}", char::MAX),
    }
}

/// The URIs that a selection has, as text between two others.
fn uris_of(selection: &Selection) -> Range<String> {
    match &selection.did {
        None => String::new()..char::MAX.to_string(),
        // '0' is the character behind '/'.
        Some(did) => format!("at://{did}/")..format!("at://{did}0"),
    }
}

fn since(selection: &Selection) -> String {
    selection.since.map(sortable).unwrap_or_default()
}

fn page<K>(rows: Vec<Row<K>>) -> StoredPage<K> {
    let mut page = StoredPage {
        records: Vec::new(),
        looked_at: rows.len() as u64,
        unreadable: 0,
        through: None,
    };
    for mut row in rows {
        if let Some(cbor) = row.cbor.take() {
            match record(&row, cbor.into()) {
                Some(record) => page.records.push(record),
                None => page.unreadable += 1,
            }
        }
        page.through = Some(row.key);
    }
    page
}

/// `None` if this version does not write such a row.
fn record<K>(row: &Row<K>, cbor: Bytes) -> Option<StoredRecord> {
    let verdict = match (row.letter, row.validity.as_deref()) {
        (Some(_), _) => Verdict::Refused,
        (None, Some("valid")) => Verdict::Valid,
        (None, Some("invalid")) => Verdict::Invalid,
        (None, Some("unvalidated")) => Verdict::Unvalidated,
        _ => return None,
    };
    let time: Timestamp = row.time.as_deref()?.parse().ok()?;
    Some(StoredRecord {
        version: RecordVersion {
            did: Did::parse(row.did.as_deref()?).ok()?,
            collection: Nsid::parse(row.collection.as_deref()?).ok()?,
            rkey: RecordKey::parse(row.rkey.as_deref()?).ok()?,
            rev: Tid::parse(row.rev.as_deref()?).ok()?,
            seq: row.seq?.unsigned_abs(),
            time,
            // The head of its repository stays as it is.
            data: cid::Cid::default(),
            verified: row.verified.as_deref().and_then(Level::parse),
        },
        source: SourceId::new(row.source.as_deref()?),
        cid: row.cid.as_deref()?.parse().ok()?,
        cbor,
        verdict,
        judgement: row.judgement.map(Judgement::from_stored),
        indexed_at: row.last_indexed_at.clone()?,
        letter: row.letter,
    })
}
