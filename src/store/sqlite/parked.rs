//! Parked frames, and how many there are.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Serialize;

use super::multi_row::MultiRow;
use super::script::{Script, Value, json_array};
use crate::store::plan::Parked;

/// The ids rise in the order of the rows.
static PARKED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
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

/// Drops all frames of repositories. The argument of each is a JSON array of DIDs. Only the rows that
/// are dropped are added up.
const DROP: [&str; 3] = [
    "UPDATE parked_totals SET commits = parked_totals.commits - gone.commits, \
     bytes = parked_totals.bytes - gone.bytes \
     FROM (SELECT reason, count(*) AS commits, sum(bytes) AS bytes FROM parked_commits \
     WHERE did IN (SELECT value FROM json_each(?)) GROUP BY reason) AS gone \
     WHERE gone.reason = parked_totals.reason",
    "DELETE FROM parked_repos WHERE did IN (SELECT value FROM json_each(?))",
    "DELETE FROM parked_commits WHERE did IN (SELECT value FROM json_each(?))",
];

/// Drops one frame. The argument of each is its id.
const DROP_ONE: [&str; 4] = [
    "UPDATE parked_totals SET commits = parked_totals.commits - 1, \
     bytes = parked_totals.bytes - gone.bytes \
     FROM (SELECT reason, bytes FROM parked_commits WHERE id = ?) AS gone \
     WHERE gone.reason = parked_totals.reason",
    "UPDATE parked_repos SET commits = parked_repos.commits - 1, \
     bytes = parked_repos.bytes - gone.bytes \
     FROM (SELECT did, iif(reason = 'directory', 0, bytes) AS bytes FROM parked_commits \
     WHERE id = ?) AS gone \
     WHERE gone.did = parked_repos.did",
    "DELETE FROM parked_repos WHERE commits < 1 \
     AND did = (SELECT did FROM parked_commits WHERE id = ?)",
    "DELETE FROM parked_commits WHERE id = ?",
];

/// Appends the statements that drop all frames of `dids`, if there are any.
pub(super) fn push_dropped<'a>(script: &mut Script, dids: impl Iterator<Item = &'a str>) {
    let mut dids = dids.peekable();
    if dids.peek().is_some() {
        let dids = json_array(dids);
        for statement in DROP {
            script.push(statement, [dids.clone()]);
        }
    }
}

/// Appends the statements that drop a frame that was replayed.
pub(super) fn push_replayed(script: &mut Script, id: i64) {
    for statement in DROP_ONE {
        script.push(statement, [id.into()]);
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
