//! Parked frames, and how many there are. Those that are dropped are deleted in pieces, as the rows of
//! removed accounts are.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Serialize;

use super::SqliteStore;
use super::multi_row::{Kind, MultiRow};
use super::script::{Script, Value, json_array};
use crate::store::plan::Parked;
use crate::store::{PieceLimit, StoreError};

/// The ids rise in the order of the rows.
static PARKED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::with_long(
        "INSERT INTO parked_commits",
        &[
            "did",
            "source",
            "seq",
            "bytes",
            "frame",
            "reason",
            "created_at",
        ],
        &[("frame", Kind::Bytes)],
        "",
    )
});

/// The arguments of both: a JSON array of a key, a number of frames, and their bytes. `parked_repos`
/// has the bytes that count towards the limits: those of frames that wait for the PLC directory do not.
const ADD_TO_REPOS: &str = "INSERT INTO parked_repos (did, commits, bytes) \
     SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true \
     ON CONFLICT (did) DO UPDATE SET commits = commits + excluded.commits, \
     bytes = bytes + excluded.bytes";
const ADD_TO_TOTALS: &str = "INSERT INTO parked_totals (reason, commits, bytes) \
     SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true \
     ON CONFLICT (reason) DO UPDATE SET commits = commits + excluded.commits, \
     bytes = bytes + excluded.bytes";

/// Drops all frames of repositories: those that are parked at this moment are gone for every reader.
/// The argument of each is a JSON array of DIDs. Only what is dropped is added up, in an index, so no
/// frame is read.
const DROP: [&str; 3] = [
    "UPDATE parked_totals SET commits = parked_totals.commits - gone.commits, \
     bytes = parked_totals.bytes - gone.bytes \
     FROM (SELECT reason, count(*) AS commits, sum(bytes) AS bytes FROM kept_parked_commits \
     WHERE did IN (SELECT value FROM json_each(?)) GROUP BY reason) AS gone \
     WHERE gone.reason = parked_totals.reason",
    "DELETE FROM parked_repos WHERE did IN (SELECT value FROM json_each(?))",
    "INSERT INTO parked_drops (did, through) SELECT did, max(id) FROM parked_commits \
     WHERE did IN (SELECT value FROM json_each(?)) GROUP BY did \
     ON CONFLICT (did) DO UPDATE SET through = excluded.through",
];

/// Deletes a piece of the frames that are dropped, the oldest of each repository first. One row is
/// deleted however large it is. `CROSS JOIN` begins with what is dropped, so no other row is read. The
/// arguments: a number of rows, and of bytes.
const PIECE: &str = "DELETE FROM parked_commits WHERE id IN ( \
     SELECT id FROM (SELECT id, bytes, sum(bytes) OVER (ORDER BY did, id \
             ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS bytes_through \
         FROM (SELECT parked.did, parked.id, parked.bytes FROM parked_drops \
             CROSS JOIN parked_commits AS parked \
             ON parked.did = parked_drops.did AND parked.id <= parked_drops.through \
             ORDER BY parked_drops.did, parked.id LIMIT ?)) \
     WHERE bytes_through <= ? OR bytes_through = bytes)";
const END_DROPS: &str = "DELETE FROM parked_drops WHERE NOT EXISTS ( \
     SELECT 1 FROM parked_commits \
     WHERE parked_commits.did = parked_drops.did AND parked_commits.id <= parked_drops.through)";

/// Drops frames. The argument of each is a JSON array of their ids. Those that are dropped already are
/// counted no more.
const DROP_FRAMES: [&str; 4] = [
    "UPDATE parked_totals SET commits = parked_totals.commits - gone.commits, \
     bytes = parked_totals.bytes - gone.bytes \
     FROM (SELECT reason, count(*) AS commits, sum(bytes) AS bytes FROM kept_parked_commits \
     WHERE id IN (SELECT value FROM json_each(?)) GROUP BY reason) AS gone \
     WHERE gone.reason = parked_totals.reason",
    "UPDATE parked_repos SET commits = parked_repos.commits - gone.commits, \
     bytes = parked_repos.bytes - gone.bytes \
     FROM (SELECT did, count(*) AS commits, sum(iif(reason = 'key', 0, bytes)) AS bytes \
     FROM kept_parked_commits WHERE id IN (SELECT value FROM json_each(?)) GROUP BY did) AS gone \
     WHERE gone.did = parked_repos.did",
    "DELETE FROM parked_repos WHERE commits < 1 AND did IN ( \
     SELECT did FROM kept_parked_commits WHERE id IN (SELECT value FROM json_each(?)))",
    "DELETE FROM parked_commits WHERE id IN (SELECT value FROM json_each(?))",
];

/// Appends the statements that drop all frames of `dids`, if there are any, and delete a first piece.
/// As a rule that is all.
pub(super) fn push_dropped<'a>(script: &mut Script, dids: impl Iterator<Item = &'a str>) {
    let mut dids = dids.peekable();
    if dids.peek().is_some() {
        let dids = json_array(dids);
        for statement in DROP {
            script.push(statement, [dids.clone()]);
        }
        push_piece(script, PieceLimit::default());
    }
}

fn push_piece(script: &mut Script, limit: PieceLimit) {
    script.push(PIECE, [limit.rows.into(), limit.bytes.into()]);
    script.push(END_DROPS, []);
}

/// Deletes the next piece of the frames that are dropped. Returns whether there were any.
pub(super) async fn drop_piece(store: &SqliteStore, limit: PieceLimit) -> Result<bool, StoreError> {
    let is_dropping: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM parked_drops)")
        .fetch_one(store.reader())
        .await?;
    if is_dropping {
        let mut script = Script::default();
        push_piece(&mut script, limit);
        let (transaction, _answers) = store.writer.begin_with(script).await?;
        transaction.commit().await?;
    }
    Ok(is_dropping)
}

/// Appends the statements that drop the frames that were replayed, if there are any.
pub(super) fn push_replayed(script: &mut Script, ids: &[i64]) {
    if ids.is_empty() {
        return;
    }
    let ids = Value::Text(serde_json::json!(ids).to_string());
    for statement in DROP_FRAMES {
        script.push(statement, [ids.clone()]);
    }
}

/// Appends the statements that park `frames`.
pub(super) fn push_added(script: &mut Script, source: &str, frames: &[Parked<'_>], now: &str) {
    if frames.is_empty() {
        return;
    }
    script.push_rows(&PARKED, frames, |Parked { update, reason }, values| {
        values.extend([
            update.did.as_str().into(),
            source.into(),
            update.seq.into(),
            (update.frame.len() as u64).into(),
            (&update.frame).into(),
            reason.as_str().into(),
            now.into(),
        ]);
    });
    let of_repos = frames.iter().map(|parked| {
        let did = parked.update.did.as_str();
        (did, parked.counted_bytes())
    });
    script.push(ADD_TO_REPOS, [sums(of_repos)]);
    let of_reasons = frames.iter().map(|parked| {
        let bytes = parked.update.frame.len() as u64;
        (parked.reason.as_str(), bytes)
    });
    script.push(ADD_TO_TOTALS, [sums(of_reasons)]);
}

/// The number of frames and the sum of their bytes, for each key, as JSON.
fn sums<'a>(frames: impl Iterator<Item = (&'a str, u64)>) -> Value {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (key, frame_bytes) in frames {
        let (commits, bytes) = sums.entry(key).or_default();
        *commits += 1;
        *bytes += frame_bytes;
    }
    json(
        sums.iter()
            .map(|(key, (commits, bytes))| (*key, *commits, *bytes)),
    )
}

fn json<T: Serialize>(rows: impl Iterator<Item = T>) -> Value {
    Value::Text(serde_json::json!(rows.collect::<Vec<_>>()).to_string())
}
