//! Records, tombstones, and the chain state of their repositories.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use sqlx::sqlite::SqliteConnection;

use super::accounts::json_array;
use super::integer;
use super::multi_row::MultiRow;
use crate::protocol::syntax::Did;
use crate::queue::effect::{RecordVersion, Validity};
use crate::source::SourceId;
use crate::store::datetime::sortable;
use crate::store::fold::{RecordChange, newest_commits};

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
        ],
        "ON CONFLICT (uri) DO UPDATE SET cid = excluded.cid, rev = excluded.rev, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         record = excluded.record, record_cbor = excluded.record_cbor, \
         validity = excluded.validity, invalid_reason = excluded.invalid_reason, \
         last_indexed_at = excluded.last_indexed_at, deleted = excluded.deleted",
    )
});

static REPOS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO repos",
        &[
            "did",
            "rev",
            "data",
            "seq",
            "source",
            "time",
            "state",
            "updated_at",
        ],
        "ON CONFLICT (did) DO UPDATE SET rev = excluded.rev, data = excluded.data, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         state = excluded.state, updated_at = excluded.updated_at \
         WHERE excluded.rev > repos.rev",
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
                .bind(upsert.is_none());
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

/// Notes the newest commit of each repository, as one whose proof nobody has checked.
pub(super) async fn write_repos(
    connection: &mut SqliteConnection,
    source: &SourceId,
    changes: &BTreeMap<String, RecordChange<'_>>,
    now: &str,
) -> Result<(), sqlx::Error> {
    let commits: Vec<(&Did, &RecordVersion)> = newest_commits(changes.values().copied())
        .into_iter()
        .collect();
    for (statement, chunk) in REPOS.cut(&commits) {
        let mut query = sqlx::query(statement);
        for (did, version) in chunk {
            query = query
                .bind(did.as_str())
                .bind(version.rev.as_str())
                .bind(version.data.to_string())
                .bind(integer(version.seq))
                .bind(source.as_str())
                .bind(sortable(version.time))
                .bind("unverified")
                .bind(now);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

fn reason(validity: &Validity) -> Option<&str> {
    match validity {
        Validity::Invalid { reason } => Some(reason),
        Validity::Unvalidated | Validity::Valid => None,
    }
}
