//! Reads what a plan needs, in one trip for all keys of a task.

use bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::script::{Answers, Script, Value, json_array};
use super::writer::Transaction;
use crate::model::SourceId;
use crate::store::plan::{
    AccountRow, AsOf, Contents, Fingerprint, GapRow, HeldRecord, Needs, ParkedNeeds, ParkedView,
    RepoRow, RepoState, ResyncCause, View,
};

/// The text is the same for all keys, so it is prepared once.
const ACCOUNTS: &str = "SELECT did, handle, handle_as_of, handle_as_of_seq, active, status, as_of, \
     as_of_seq, removed_at, is_unconfirmed, retry_at, attempts FROM accounts \
     WHERE did IN (SELECT value FROM json_each(?))";
/// Most accounts were always active, so only the others are read as guards.
const GUARDS: &str = "SELECT did, handle, handle_as_of, handle_as_of_seq, active, status, as_of, \
     as_of_seq, removed_at, is_unconfirmed, retry_at, attempts FROM accounts \
     WHERE did IN (SELECT value FROM json_each(?)) AND (removed_at IS NOT NULL OR active = 0)";
const REPOS: &str = "SELECT did, rev, data, seq, source, time, state, cause, is_whole, has_parked, \
     recheck_cause, retry_at, attempts FROM repos WHERE did IN (SELECT value FROM json_each(?))";
const RECORDS: &str = "SELECT uri, rev, time, verified = 'chain' FROM records \
     WHERE uri IN (SELECT value FROM json_each(?))";
const IS_BEHIND_GAP: &str = "SELECT EXISTS (SELECT 1 FROM gaps WHERE cause <> 'started_live')";
const GAPS: &str = "SELECT id, cause, from_seq, from_time, to_seq, to_time, closed_at IS NULL FROM gaps \
     WHERE source = ? AND from_seq IN (SELECT value FROM json_each(?))";
const DEAD_LETTERS: &str = "SELECT fingerprint FROM dead_letters \
     WHERE fingerprint IN (SELECT unhex(value) FROM json_each(?))";
const CONTENTS: &str = "SELECT EXISTS (SELECT 1 FROM records WHERE did = asked.value), \
     EXISTS (SELECT 1 FROM parked_commits WHERE did = asked.value AND id IS NOT ?) \
     FROM json_each(?) AS asked";
const CURSOR: &str = "SELECT CAST(cursor AS INTEGER) FROM firehose_cursor WHERE source = ?";

const PARKED_BYTES: &str = "SELECT coalesce(sum(bytes), 0) FROM parked_commits";
const PARKED_OF: &str = "SELECT did, sum(bytes) FROM parked_commits \
     WHERE did IN (SELECT value FROM json_each(?)) GROUP BY did";
const PARKED_FRAMES: &str = "SELECT parked.did, parked.seq, parked.frame FROM json_each(?) AS asked \
     JOIN parked_commits AS parked ON parked.did = json_extract(asked.value, '$[0]') \
     AND parked.seq = json_extract(asked.value, '$[1]')";

/// Appends the statements that read `needs`, and the cursor of `source`.
pub(super) fn push(script: &mut Script, needs: &Needs<'_>, source: Option<&SourceId>) {
    script.push(ACCOUNTS, [json_array(needs.accounts.iter().copied())]);
    script.push(GUARDS, [json_array(needs.guards.iter().copied())]);
    script.push(REPOS, [json_array(needs.repos.iter().copied())]);
    script.push(RECORDS, [json_array(needs.uris.iter().map(String::as_str))]);
    script.push(IS_BEHIND_GAP, []);
    let (gap_source, seqs) = match &needs.gaps {
        Some((source, seqs)) => (Some(source.as_str()), seqs.iter().copied().collect()),
        None => (None, Vec::new()),
    };
    let seqs = serde_json::Value::from(seqs).to_string();
    script.push(GAPS, [gap_source.into(), seqs.into()]);
    let fingerprints: Vec<String> = needs.dead_letters.iter().map(hex).collect();
    let fingerprints = json_array(fingerprints.iter().map(String::as_str));
    script.push(DEAD_LETTERS, [fingerprints]);
    let contents_of = json_array(needs.contents_of);
    script.push(CONTENTS, [needs.replayed.into(), contents_of]);
    script.push(CURSOR, [source.map(SourceId::as_str).into()]);
}

/// The result of the statements of [`push`]: the view, and the cursor if there is one.
pub(super) fn view(answers: Answers) -> Result<(View, Option<u64>), sqlx::Error> {
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let mut view = View::default();
    for row in next().into_iter().chain(next()) {
        view.accounts.insert(row.try_get(0)?, account(&row)?);
    }
    for row in next() {
        view.repos.insert(row.try_get(0)?, repo(&row)?);
    }
    for row in next() {
        let held = HeldRecord {
            rev: row.try_get(1)?,
            time: row.try_get(2)?,
            is_chain_verified: row.try_get(3)?,
        };
        view.records.insert(row.try_get(0)?, held);
    }
    for row in next() {
        view.is_behind_gap = row.try_get(0)?;
    }
    for row in next() {
        view.gaps.push(gap(&row)?);
    }
    for row in next() {
        let fingerprint: Vec<u8> = row.try_get(0)?;
        view.dead_letters.extend(Fingerprint::try_from(fingerprint));
    }
    for row in next() {
        view.contents = Contents {
            has_records: row.try_get(0)?,
            has_parked: row.try_get(1)?,
        };
    }
    let cursor = next().first().map(|row| unsigned(row, 0)).transpose()?;
    Ok((view, cursor))
}

/// Reads what a plan has to know before it parks frames.
pub(super) async fn parked(
    transaction: &mut Transaction<'_>,
    needs: &ParkedNeeds,
) -> Result<ParkedView, sqlx::Error> {
    let mut script = Script::default();
    script.push(PARKED_BYTES, []);
    script.push(
        PARKED_OF,
        [json_array(needs.dids.iter().map(String::as_str))],
    );
    let frames = serde_json::json!(needs.frames).to_string();
    script.push(PARKED_FRAMES, [Value::Text(frames)]);
    let connection: &mut SqliteConnection = transaction;
    let mut answers = script.run(connection).await?.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let mut parked = ParkedView::default();
    for row in next() {
        parked.total = unsigned(&row, 0)?;
    }
    for row in next() {
        parked.bytes.insert(row.try_get(0)?, unsigned(&row, 1)?);
    }
    for row in next() {
        let frame: Vec<u8> = row.try_get(2)?;
        let frame = (row.try_get(0)?, unsigned(&row, 1)?, Bytes::from(frame));
        parked.frames.insert(frame);
    }
    Ok(parked)
}

fn account(row: &SqliteRow) -> Result<AccountRow, sqlx::Error> {
    Ok(AccountRow {
        handle: row.try_get(1)?,
        handle_as_of: as_of(row, 2)?,
        is_active: row.try_get(4)?,
        status: row.try_get(5)?,
        as_of: as_of(row, 6)?,
        removed_at: row.try_get(8)?,
        is_unconfirmed: row.try_get(9)?,
        retry_at: row.try_get(10)?,
        attempts: row.try_get(11)?,
    })
}

fn as_of(row: &SqliteRow, column: usize) -> Result<Option<AsOf>, sqlx::Error> {
    let time: Option<String> = row.try_get(column)?;
    let seq: Option<i64> = row.try_get(column + 1)?;
    let seq = seq.unwrap_or(i64::MAX).unsigned_abs();
    Ok(time.map(|time| AsOf { time, seq }))
}

fn repo(row: &SqliteRow) -> Result<RepoRow, sqlx::Error> {
    let seq: Option<i64> = row.try_get(3)?;
    let state: String = row.try_get(6)?;
    Ok(RepoRow {
        rev: row.try_get(1)?,
        data: row.try_get(2)?,
        seq: seq.map(i64::unsigned_abs),
        source: row.try_get(4)?,
        time: row.try_get(5)?,
        // An unknown state, of a later version, counts as desynchronized, so the repository is
        // fetched.
        state: RepoState::parse(&state).unwrap_or(RepoState::Desynchronized),
        cause: row
            .try_get::<Option<&str>, _>(7)?
            .and_then(ResyncCause::parse),
        is_whole: row.try_get(8)?,
        has_parked: row.try_get(9)?,
        recheck_cause: row.try_get(10)?,
        retry_at: row.try_get(11)?,
        attempts: row.try_get(12)?,
    })
}

fn gap(row: &SqliteRow) -> Result<GapRow, sqlx::Error> {
    let to_seq: Option<i64> = row.try_get(4)?;
    Ok(GapRow {
        id: row.try_get(0)?,
        cause: row.try_get(1)?,
        from_seq: unsigned(row, 2)?,
        from_time: row.try_get(3)?,
        to_seq: to_seq.map(i64::unsigned_abs),
        to_time: row.try_get(5)?,
        is_open: row.try_get(6)?,
    })
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    Ok(number.unsigned_abs())
}

fn hex(bytes: &Fingerprint) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
