//! Statuses, handles, and the removal of what an account had.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::integer;
use super::multi_row::MultiRow;
use crate::protocol::syntax::Did;
use crate::queue::effect::{AccountChange, ChainUpdate};
use crate::store::datetime::sortable;
use crate::store::fold::{Handle, Sorted};

static STATUSES: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO accounts",
        &[
            "did",
            "active",
            "status",
            "as_of",
            "as_of_seq",
            "is_hearsay",
        ],
        "ON CONFLICT (did) DO UPDATE SET active = excluded.active, status = excluded.status, \
         as_of = excluded.as_of, as_of_seq = excluded.as_of_seq, \
         is_hearsay = excluded.is_hearsay, retry_at = NULL, attempts = 0 \
         WHERE accounts.as_of IS NULL \
         OR (excluded.as_of, excluded.as_of_seq) > (accounts.as_of, accounts.as_of_seq)",
    )
});

static HANDLES: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO accounts",
        &["did", "handle", "handle_as_of", "handle_as_of_seq"],
        "ON CONFLICT (did) DO UPDATE SET handle = excluded.handle, \
         handle_as_of = excluded.handle_as_of, handle_as_of_seq = excluded.handle_as_of_seq \
         WHERE accounts.handle_as_of IS NULL \
         OR (excluded.handle_as_of, excluded.handle_as_of_seq) \
         > (accounts.handle_as_of, accounts.handle_as_of_seq)",
    )
});

static REMOVALS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO accounts",
        &["did", "removed_at"],
        "ON CONFLICT (did) DO UPDATE SET removed_at = excluded.removed_at \
         WHERE accounts.removed_at IS NULL OR excluded.removed_at > accounts.removed_at",
    )
});

/// What goes with an account, by the DIDs in a JSON array. A projection goes where its record went.
const REMOVE: [&str; 8] = [
    "DELETE FROM records WHERE did IN (SELECT value FROM json_each(?)) \
     AND time <= (SELECT removed_at FROM accounts WHERE accounts.did = records.did)",
    "DELETE FROM waiting_commits WHERE did IN (SELECT value FROM json_each(?))",
    "DELETE FROM repos WHERE did IN (SELECT value FROM json_each(?)) AND state = 'unchained' \
     AND (time IS NULL OR time <= (SELECT removed_at FROM accounts WHERE accounts.did = repos.did))",
    // Should the account come back, so does its repository, and not before.
    "UPDATE repos SET rev = NULL, data = NULL, state = 'desynchronized', cause = 'returned', \
     has_waiting = 0, retry_at = '9999-12-31T23:59:59.999Z', attempts = 0 \
     WHERE did IN (SELECT value FROM json_each(?)) AND state <> 'unchained' \
     AND (time IS NULL OR time <= (SELECT removed_at FROM accounts WHERE accounts.did = repos.did))",
    // What waited of one that is newer has gone all the same.
    "UPDATE repos SET state = 'desynchronized', cause = 'returned', has_waiting = 0 \
     WHERE did IN (SELECT value FROM json_each(?)) AND has_waiting = 1",
    "DELETE FROM offers_index WHERE did IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE records.uri = offers_index.uri)",
    "DELETE FROM booking_requests WHERE did IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE records.uri = booking_requests.uri)",
    "DELETE FROM bookings WHERE did IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE records.uri = bookings.uri)",
];

pub(super) async fn write_statuses(
    connection: &mut SqliteConnection,
    statuses: &BTreeMap<&Did, &AccountChange>,
) -> Result<(), sqlx::Error> {
    let statuses: Vec<&AccountChange> = statuses.values().copied().collect();
    for (statement, chunk) in STATUSES.cut(&statuses) {
        let mut query = sqlx::query(statement);
        for change in chunk {
            query = query
                .bind(change.did.as_str())
                .bind(change.active)
                .bind(change.status.as_deref())
                .bind(sortable(change.time))
                .bind(integer(change.seq))
                .bind(change.is_hearsay && !change.active);
        }
        query.execute(&mut *connection).await?;
    }
    let hearsay: Vec<&str> = statuses
        .iter()
        .filter(|change| change.is_hearsay)
        .map(|change| change.did.as_str())
        .collect();
    if hearsay.is_empty() {
        return Ok(());
    }
    // Of whom nothing is kept nobody asks.
    sqlx::query(
        "UPDATE accounts SET is_hearsay = 0 WHERE did IN (SELECT value FROM json_each(?)) \
         AND did NOT IN (SELECT did FROM repos)",
    )
    .bind(json_array(hearsay.into_iter()))
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Has the repositories of accounts that come back fetched as a whole: nobody knows what happened
/// meanwhile. To be called before the new statuses are written.
pub(super) async fn note_returns(
    connection: &mut SqliteConnection,
    sorted: &Sorted<'_>,
) -> Result<bool, sqlx::Error> {
    let statuses = sorted.statuses.values();
    let active: Vec<&Did> = statuses
        .filter(|change| change.active && change.is_hearsay)
        .map(|change| &change.did)
        .collect();
    if active.is_empty() {
        return Ok(false);
    }
    let had_gone = active.iter().filter(|did| sorted.inactive.contains(*did));
    let noted = sqlx::query(
        "UPDATE repos SET state = 'desynchronized', cause = 'returned', retry_at = NULL, \
         attempts = 0 WHERE did IN (SELECT value FROM json_each(?1)) AND ( \
             did IN (SELECT value FROM json_each(?2)) \
             OR EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0))",
    )
    .bind(json_array(active.iter().map(|did| did.as_str())))
    .bind(json_array(had_gone.map(|did| did.as_str())))
    .execute(&mut *connection)
    .await?;
    Ok(noted.rows_affected() > 0)
}

/// Has the hosts asked again of accounts that are said to be gone and have committed since, but not all
/// the time.
pub(super) async fn doubt_absence<'a>(
    connection: &mut SqliteConnection,
    commits: impl Iterator<Item = &'a ChainUpdate>,
    ask_at: Timestamp,
) -> Result<(), sqlx::Error> {
    let commits = commits.map(|step| [step.did.to_string(), sortable(step.time)]);
    sqlx::query(
        "UPDATE accounts SET is_hearsay = 1, retry_at = ?2 FROM json_each(?1) AS step \
         WHERE did = json_extract(step.value, '$[0]') AND active = 0 AND is_hearsay = 0 \
         AND as_of < json_extract(step.value, '$[1]')",
    )
    .bind(serde_json::json!(commits.collect::<Vec<_>>()).to_string())
    .bind(sortable(ask_at))
    .execute(&mut *connection)
    .await?;
    Ok(())
}

pub(super) async fn write_handles(
    connection: &mut SqliteConnection,
    handles: &BTreeMap<&Did, Handle<'_>>,
) -> Result<(), sqlx::Error> {
    let handles: Vec<(&&Did, &Handle<'_>)> = handles.iter().collect();
    for (statement, chunk) in HANDLES.cut(&handles) {
        let mut query = sqlx::query(statement);
        for (did, Handle { handle, as_of }) in chunk {
            query = query
                .bind(did.as_str())
                .bind(*handle)
                .bind(as_of.0.as_str())
                .bind(integer(as_of.1));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Notes the deletions and deletes what the accounts had up to then. That a later status has
/// brought an account back doesn't bring back what it had.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    removals: &BTreeMap<&Did, String>,
) -> Result<(), sqlx::Error> {
    if removals.is_empty() {
        return Ok(());
    }
    let rows: Vec<(&&Did, &String)> = removals.iter().collect();
    for (statement, chunk) in REMOVALS.cut(&rows) {
        let mut query = sqlx::query(statement);
        for (did, removed_at) in chunk {
            query = query.bind(did.as_str()).bind(removed_at.as_str());
        }
        query.execute(&mut *connection).await?;
    }
    let dids = json_array(removals.keys().map(|did| did.as_str()));
    for statement in REMOVE {
        sqlx::query(statement)
            .bind(dids.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// What is to be heeded of accounts that were gone at some time.
#[derive(Debug, Default)]
pub(super) struct Absences {
    /// When they were removed, of those that ever were.
    pub(super) removed_at: HashMap<String, String>,
    /// Whether any is gone now, by the word of its host.
    pub(super) is_any_gone: bool,
}

pub(super) async fn absences(
    connection: &mut SqliteConnection,
    dids: &BTreeSet<&Did>,
) -> Result<Absences, sqlx::Error> {
    let mut absences = Absences::default();
    if dids.is_empty() {
        return Ok(absences);
    }
    let rows: Vec<(String, Option<String>, bool)> = sqlx::query_as(
        "SELECT did, removed_at, active = 0 AND is_hearsay = 0 FROM accounts \
         WHERE did IN (SELECT value FROM json_each(?)) AND (removed_at IS NOT NULL OR active = 0)",
    )
    .bind(json_array(dids.iter().map(|did| did.as_str())))
    .fetch_all(&mut *connection)
    .await?;
    for (did, removed_at, is_gone) in rows {
        absences.is_any_gone |= is_gone;
        if let Some(removed_at) = removed_at {
            absences.removed_at.insert(did, removed_at);
        }
    }
    Ok(absences)
}

/// A list as one bound value, so that one statement serves lists of any length.
pub(super) fn json_array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    serde_json::Value::from_iter(texts).to_string()
}
