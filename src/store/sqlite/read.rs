//! Reads what a plan needs, in one trip for all keys of a task.
//!
//! sqlx returns rows one by one, and each may wake the waiting task. So one statement returns one
//! row, in which each table is a JSON array of rows.

use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::count;
use super::script::{Answers, Script, Value, json_array};
use super::writer::Transaction;
use crate::atproto::verify::Level;
use crate::model::{HandleStatus, Judgement, SourceId};
use crate::store::plan::{
    AccountRow, AsOf, ChainBreak, Contents, DiscoveryRow, Fingerprint, GapRow, HeldRecord, Needs,
    ParkedNeeds, ParkedView, RepoRow, RepoState, ResyncCause, View,
};

const ACCOUNT: &str = "json_array(did, handle, handle_as_of, handle_as_of_seq, active, status, \
     as_of, as_of_seq, removed_at, held_status, is_overridden, is_unconfirmed, suspected_status, \
     retry_at, attempts, handle_due_at, as_of_source, handle_as_of_source, removed_seq, \
     removed_source, hold_as_of, hold_as_of_seq, hold_as_of_source, handle_status, \
     handle_checked_at, handle_check_at, change IS NOT NULL)";

/// The text is the same for all keys, so it is prepared once. [`view`] reads its columns.
static READ: LazyLock<String> = LazyLock::new(|| {
    let columns = [
        format!(
            "SELECT json_group_array({ACCOUNT}) FROM accounts \
             WHERE did IN (SELECT value FROM json_each(?))"
        ),
        // Most accounts were always active and are in the change feed, so only the others are read as
        // guards.
        format!(
            "SELECT json_group_array({ACCOUNT}) FROM accounts \
             WHERE did IN (SELECT value FROM json_each(?)) \
             AND (removed_at IS NOT NULL OR active = 0 OR suspected_status IS NOT NULL \
             OR change IS NULL)"
        ),
        "SELECT json_group_array(json_array(did, rev, data, seq, source, time, state, cause, \
         is_whole, has_parked, recheck_cause, retry_at, attempts, is_proven, waits_for_account)) \
         FROM repos \
         WHERE did IN (SELECT value FROM json_each(?))"
            .to_owned(),
        "SELECT json_group_array(json_array(uri, rev, coalesce(cid, refused_cid), judgement, verified, \
         source, seq, min(time, last_indexed_at))) FROM records \
         WHERE uri IN (SELECT value FROM json_each(?)) AND NOT EXISTS ( \
         SELECT 1 FROM removed_records \
         WHERE removed_records.did = records.did AND removed_records.uri = records.uri)"
            .to_owned(),
        "SELECT EXISTS (SELECT 1 FROM gaps WHERE closed_at IS NULL AND cause <> 'started_live')"
            .to_owned(),
        "SELECT json_group_array(json_array(id, cause, from_seq, from_time, to_seq, to_time, \
         closed_at IS NULL, recheck_started_at IS NOT NULL)) FROM gaps \
         WHERE source = ? AND (closed_at IS NULL \
         OR from_seq IN (SELECT value FROM json_each(?)))"
            .to_owned(),
        "SELECT json_group_array(hex(fingerprint)) FROM dead_letters \
         WHERE fingerprint IN (SELECT unhex(value) FROM json_each(?))"
            .to_owned(),
        // Behind the character '/' comes '0'.
        "SELECT EXISTS (SELECT 1 FROM records \
         WHERE uri > 'at://' || ? || '/' AND uri < 'at://' || ? || '0')"
            .to_owned(),
        "SELECT EXISTS (SELECT 1 FROM kept_parked_commits WHERE did = ? \
         AND id NOT IN (SELECT value FROM json_each(?)))"
            .to_owned(),
        "SELECT CAST(cursor AS INTEGER) FROM firehose_cursor WHERE source = ?".to_owned(),
        "SELECT EXISTS (SELECT 1 FROM interest_sets WHERE is_widened = 1)".to_owned(),
        "SELECT EXISTS (SELECT 1 FROM stale_records)".to_owned(),
        "SELECT json_group_array(json_array(pass, cursor, repos, has_next_pass, \
         ended_at IS NOT NULL)) FROM discoveries WHERE collection = ?"
            .to_owned(),
        "SELECT json_group_array(json_array(did, held_seq, held_time, seq, time, noted_at, \
         held_since, used_at)) FROM chain_breaks WHERE source = ?"
            .to_owned(),
        "SELECT EXISTS (SELECT 1 FROM account_removals)".to_owned(),
        "SELECT last FROM change_feed".to_owned(),
        "SELECT EXISTS (SELECT 1 FROM resyncs WHERE did = ? AND error IS NULL AND started_at >= ?)"
            .to_owned(),
    ];
    format!("SELECT ({})", columns.join("), ("))
});

const PARKED_BYTES: &str = "SELECT coalesce(sum(bytes), 0) FROM parked_totals \
     WHERE reason <> 'key'";
const PARKED_OF: &str = "SELECT did, bytes FROM parked_repos \
     WHERE did IN (SELECT value FROM json_each(?))";
const PARKED_FRAMES: &str = "SELECT parked.did, parked.seq, parked.frame FROM json_each(?) AS asked \
     JOIN kept_parked_commits AS parked ON parked.did = json_extract(asked.value, '$[0]') \
     AND parked.seq = json_extract(asked.value, '$[1]')";

/// Appends the statements that read `needs`.
pub(super) fn push(script: &mut Script, needs: &Needs<'_>) {
    let (gap_source, seqs) = match &needs.gaps {
        Some((source, seqs)) => (Some(source.as_str()), seqs.iter().copied().collect()),
        None => (None, Vec::new()),
    };
    let seqs = serde_json::Value::from(seqs).to_string();
    let fingerprints: Vec<String> = needs.dead_letters.iter().map(hex).collect();
    script.push(
        &READ,
        [
            json_array(needs.accounts.iter().copied()),
            json_array(needs.guards.iter().copied()),
            json_array(needs.repos.iter().copied()),
            json_array(needs.uris.iter().map(String::as_str)),
            gap_source.into(),
            seqs.into(),
            json_array(fingerprints.iter().map(String::as_str)),
            needs.contents_of.into(),
            needs.contents_of.into(),
            needs.contents_of.into(),
            Value::Text(serde_json::json!(needs.replayed).to_string()),
            needs.source.map(SourceId::as_str).into(),
            needs.discovery.into(),
            needs.chains_of.map(SourceId::as_str).into(),
            needs.fetched_since.map(|kept| kept.did.as_str()).into(),
            needs.fetched_since.map(|kept| kept.created_at).into(),
        ],
    );
}

/// The result of the statement of [`push`].
pub(super) fn view(answers: Answers) -> Result<View, sqlx::Error> {
    let answer = answers.into_iter().flatten().next();
    let answer = answer.ok_or(sqlx::Error::RowNotFound)?;
    let mut accounts = rows::<Account>(&answer, 0)?;
    accounts.extend(rows::<Account>(&answer, 1)?);
    let fingerprints = rows::<String>(&answer, 6)?;
    let cursor: Option<i64> = answer.try_get(9)?;
    Ok(View {
        accounts: accounts.into_iter().map(Account::into_row).collect(),
        repos: rows(&answer, 2)?.into_iter().map(Repo::into_row).collect(),
        records: rows(&answer, 3)?.into_iter().map(Held::into_row).collect(),
        is_behind_gap: answer.try_get(4)?,
        breaks: rows(&answer, 13)?
            .into_iter()
            .map(Break::into_row)
            .collect(),
        gaps: rows(&answer, 5)?.into_iter().map(Gap::into_row).collect(),
        dead_letters: fingerprints.iter().filter_map(|hex| unhex(hex)).collect(),
        contents: Contents {
            has_records: answer.try_get(7)?,
            has_parked: answer.try_get(8)?,
        },
        discovery: rows(&answer, 12)?
            .into_iter()
            .next()
            .map(Discovery::into_row),
        cursor: cursor.map(i64::unsigned_abs),
        parked: OnceLock::new(),
        was_interest_widened: answer.try_get(10)?,
        has_stale_records: answer.try_get(11)?,
        has_removals: answer.try_get(14)?,
        last_change: unsigned(&answer, 15)?,
        was_fetched_since: answer.try_get(16)?,
    })
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
    let mut answers = transaction.run(script).await?.into_iter();
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

/// A table's rows, each an array of its columns.
fn rows<T: DeserializeOwned>(answer: &SqliteRow, column: usize) -> Result<Vec<T>, sqlx::Error> {
    let text: &str = answer.try_get(column)?;
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The fields are in the order of the columns.
#[derive(Deserialize)]
struct Account {
    did: String,
    handle: Option<String>,
    handle_as_of: Option<String>,
    handle_as_of_seq: Option<i64>,
    #[serde(deserialize_with = "flag")]
    is_active: bool,
    status: Option<String>,
    as_of: Option<String>,
    as_of_seq: Option<i64>,
    removed_at: Option<String>,
    held_status: Option<String>,
    #[serde(deserialize_with = "flag")]
    is_overridden: bool,
    #[serde(deserialize_with = "flag")]
    is_unconfirmed: bool,
    suspected_status: Option<String>,
    retry_at: Option<String>,
    #[serde(deserialize_with = "attempts")]
    attempts: u32,
    handle_due_at: Option<String>,
    as_of_source: Option<String>,
    handle_as_of_source: Option<String>,
    removed_seq: Option<i64>,
    removed_source: Option<String>,
    hold_as_of: Option<String>,
    hold_as_of_seq: Option<i64>,
    hold_as_of_source: Option<String>,
    handle_status: String,
    handle_checked_at: Option<String>,
    handle_check_at: Option<String>,
    #[serde(deserialize_with = "flag")]
    is_in_feed: bool,
}

impl Account {
    fn into_row(self) -> (String, AccountRow) {
        let row = AccountRow {
            handle: self.handle,
            handle_as_of: as_of(
                self.handle_as_of_source,
                self.handle_as_of_seq,
                self.handle_as_of,
            ),
            is_active: self.is_active,
            status: self.status,
            as_of: as_of(self.as_of_source, self.as_of_seq, self.as_of),
            removed: as_of(self.removed_source, self.removed_seq, self.removed_at),
            held_status: self.held_status,
            hold_as_of: as_of(self.hold_as_of_source, self.hold_as_of_seq, self.hold_as_of),
            is_overridden: self.is_overridden,
            is_unconfirmed: self.is_unconfirmed,
            suspected_status: self.suspected_status,
            retry_at: self.retry_at,
            attempts: self.attempts,
            handle_due_at: self.handle_due_at,
            handle_status: HandleStatus::parse(&self.handle_status),
            handle_checked_at: self.handle_checked_at,
            handle_check_at: self.handle_check_at,
            is_in_feed: self.is_in_feed,
        };
        (self.did, row)
    }
}

fn as_of(source: Option<String>, seq: Option<i64>, time: Option<String>) -> Option<AsOf> {
    let seq = seq.unwrap_or(i64::MAX).unsigned_abs();
    time.map(|time| AsOf { source, seq, time })
}

/// The fields are in the order of the columns.
#[derive(Deserialize)]
struct Repo {
    did: String,
    rev: Option<String>,
    data: Option<String>,
    seq: Option<i64>,
    source: Option<String>,
    time: Option<String>,
    state: String,
    cause: Option<String>,
    #[serde(deserialize_with = "flag")]
    is_whole: bool,
    #[serde(deserialize_with = "flag")]
    has_parked: bool,
    recheck_cause: Option<i64>,
    retry_at: Option<String>,
    #[serde(deserialize_with = "attempts")]
    attempts: u32,
    #[serde(deserialize_with = "flag")]
    is_proven: bool,
    #[serde(deserialize_with = "flag")]
    waits_for_account: bool,
}

impl Repo {
    fn into_row(self) -> (String, RepoRow) {
        let row = RepoRow {
            rev: self.rev,
            data: self.data,
            is_proven: self.is_proven,
            seq: self.seq.map(i64::unsigned_abs),
            source: self.source,
            time: self.time,
            // An unknown state, of a later version, counts as desynchronized, so the repository is
            // fetched.
            state: RepoState::parse(&self.state).unwrap_or(RepoState::Desynchronized),
            cause: self.cause.as_deref().and_then(ResyncCause::parse),
            is_whole: self.is_whole,
            has_parked: self.has_parked,
            recheck_cause: self.recheck_cause,
            retry_at: self.retry_at,
            attempts: self.attempts,
            waits_for_account: self.waits_for_account,
        };
        (self.did, row)
    }
}

/// The fields are in the order of the columns.
#[derive(Deserialize)]
struct Held {
    uri: String,
    rev: String,
    cid: Option<String>,
    judgement: Option<i64>,
    verified: String,
    source: String,
    seq: i64,
    time: String,
}

impl Held {
    fn into_row(self) -> (String, HeldRecord) {
        let row = HeldRecord {
            rev: self.rev,
            cid: self.cid,
            judgement: self.judgement.map(Judgement::from_stored),
            verified: Level::parse(&self.verified),
            source: self.source,
            seq: self.seq.unsigned_abs(),
            time: self.time,
        };
        (self.uri, row)
    }
}

/// The fields are in the order of the columns.
#[derive(Deserialize)]
struct Gap {
    id: i64,
    cause: String,
    from_seq: i64,
    from_time: Option<String>,
    to_seq: Option<i64>,
    to_time: Option<String>,
    #[serde(deserialize_with = "flag")]
    is_open: bool,
    #[serde(deserialize_with = "flag")]
    is_rechecked: bool,
}

impl Gap {
    fn into_row(self) -> GapRow {
        GapRow {
            id: Some(self.id),
            cause: self.cause,
            from_seq: self.from_seq.unsigned_abs(),
            from_time: self.from_time,
            to_seq: self.to_seq.map(i64::unsigned_abs),
            to_time: self.to_time,
            is_open: self.is_open,
            is_rechecked: self.is_rechecked,
            resolution: None,
        }
    }
}

/// The fields are in the order of the columns.
#[derive(Deserialize)]
struct Discovery {
    pass: i64,
    cursor: Option<String>,
    repos: i64,
    #[serde(deserialize_with = "flag")]
    has_next_pass: bool,
    #[serde(deserialize_with = "flag")]
    is_over: bool,
}

impl Discovery {
    fn into_row(self) -> DiscoveryRow {
        DiscoveryRow {
            pass: self.pass,
            cursor: self.cursor,
            repos: self.repos.unsigned_abs(),
            has_next_pass: self.has_next_pass,
            is_over: self.is_over,
        }
    }
}

/// The fields are in the order of the columns.
#[derive(Deserialize)]
struct Break {
    did: String,
    held_seq: Option<i64>,
    held_time: Option<Timestamp>,
    seq: i64,
    time: Timestamp,
    noted_at: Timestamp,
    held_since: i64,
    used_at: Option<Timestamp>,
}

impl Break {
    fn into_row(self) -> ChainBreak {
        ChainBreak {
            did: self.did,
            held: self
                .held_seq
                .map(|seq| (seq.unsigned_abs(), self.held_time)),
            seq: self.seq.unsigned_abs(),
            time: self.time,
            noted_at: self.noted_at,
            held_since: self.held_since.unsigned_abs(),
            used_at: self.used_at,
        }
    }
}

/// SQLite has numbers in the place of booleans.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    i64::deserialize(deserializer).map(|number| number != 0)
}

fn attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    i64::deserialize(deserializer).map(count)
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    Ok(number.unsigned_abs())
}

fn hex(bytes: &Fingerprint) -> String {
    data_encoding::HEXUPPER.encode(bytes)
}

fn unhex(text: &str) -> Option<Fingerprint> {
    let bytes = data_encoding::HEXUPPER.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}
