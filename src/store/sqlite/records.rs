//! Records and tombstones.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use sqlx::sqlite::SqliteConnection;

use super::accounts::json_array;
use super::integer;
use super::multi_row::MultiRow;
use crate::atproto::verify::Level;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::fold::RecordChange;
use crate::store::plan::effect::Validity;

static RECORDS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO records",
        &[
            "uri",
            "did",
            "collection",
            "rkey",
            "cid",
            "rev",
            "seq",
            "source",
            "time",
            "record",
            "record_cbor",
            "validity",
            "invalid_reason",
            "first_indexed_at",
            "last_indexed_at",
            "deleted",
            "verified",
        ],
        "ON CONFLICT (uri) DO UPDATE SET cid = excluded.cid, rev = excluded.rev, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         record = excluded.record, record_cbor = excluded.record_cbor, \
         validity = excluded.validity, invalid_reason = excluded.invalid_reason, \
         last_indexed_at = excluded.last_indexed_at, deleted = excluded.deleted, \
         verified = excluded.verified",
    )
});

/// Writes those of `changes` that no equal or higher rev has overtaken, and returns them. What is
/// deleted has its rev too, so that an older create can't bring it back.
pub(super) async fn write<'a, 'e>(
    connection: &mut SqliteConnection,
    source: &SourceId,
    changes: &'a BTreeMap<String, RecordChange<'e>>,
    now: &str,
) -> Result<Vec<(&'a str, RecordChange<'e>)>, sqlx::Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let held = held_revs(connection, changes.keys()).await?;
    let is_newer = |(uri, change): &(&str, RecordChange<'_>)| {
        let held = held.get(*uri);
        held.is_none_or(|held| change.version().rev.as_str() > held.as_str())
    };
    let rows: Vec<(&str, RecordChange<'_>)> = changes
        .iter()
        .map(|(uri, change)| (uri.as_str(), *change))
        .filter(is_newer)
        .collect();
    for (statement, chunk) in RECORDS.cut(&rows) {
        let mut query = sqlx::query(statement);
        for (uri, change) in chunk {
            let version = change.version();
            let upsert = match change {
                RecordChange::Delete(_) => None,
                RecordChange::Upsert(upsert) => Some(*upsert),
            };
            query = query
                .bind(*uri)
                .bind(version.did.as_str())
                .bind(version.collection.as_str())
                .bind(version.rkey.as_str())
                .bind(upsert.map(|upsert| upsert.cid.to_string()))
                .bind(version.rev.as_str())
                .bind(integer(version.seq))
                .bind(source.as_str())
                .bind(sortable(version.time))
                .bind(upsert.map(|upsert| upsert.json.as_str()))
                .bind(upsert.map(|upsert| upsert.cbor.as_ref()))
                .bind(upsert.map(|upsert| upsert.validity.as_str()))
                .bind(upsert.and_then(|upsert| reason(&upsert.validity)))
                .bind(now)
                .bind(now)
                .bind(upsert.is_none())
                .bind(version.verified.map_or("none", Level::as_str));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(rows)
}

/// The revs of those of the records that are there already. Asking first is cheaper than having
/// every written row returned, and as exact: nobody else writes within the transaction.
async fn held_revs(
    connection: &mut SqliteConnection,
    uris: impl Iterator<Item = &String>,
) -> Result<HashMap<String, String>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT uri, rev FROM records WHERE uri IN (SELECT value FROM json_each(?))",
    )
    .bind(json_array(uris.map(String::as_str)))
    .fetch_all(&mut *connection)
    .await?;
    Ok(rows.into_iter().collect())
}

fn reason(validity: &Validity) -> Option<&str> {
    match validity {
        Validity::Invalid { reason } => Some(reason),
        Validity::Unvalidated | Validity::Valid => None,
    }
}
