//! An index task that is read from a queue: the item of `item.rs`, as a change again. Whatever is in a
//! queue is outside data, so each field is checked.

use std::fmt::Display;

use bytestring::ByteString;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::model::{Change, ChangedAccount, ChangedRecord, ChangedRow, HandleStatus, RandomId};
use crate::store::sortable;

/// The longest id of a feed or an epoch.
const LONGEST_ID: usize = 64;
/// The longest other text, such as a status, in bytes.
const LONGEST_WORD: usize = 4096;
const VALIDITIES: [&str; 3] = ["valid", "invalid", "unvalidated"];

/// A change of a feed, as a queue has it. A record has no CBOR: that does not travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub feed: RandomId,
    pub change: Change,
}

/// Why a body is no index task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no index task: {0}")]
pub struct InvalidTask(String);

impl InvalidTask {
    fn of(what: &str, error: impl Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    feed: String,
    epoch: String,
    change: u64,
    did: String,
    timestamp: String,
}

#[derive(Deserialize)]
struct Account {
    active: bool,
    status: Option<String>,
    handle: Option<String>,
    handle_status: String,
    removed_at: Option<String>,
    removal_change: Option<u64>,
}

#[derive(Deserialize)]
struct Record<'a> {
    collection: String,
    uri: String,
    rkey: String,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    cid: Option<String>,
    rev: String,
    seq: u64,
    source: String,
    verified: String,
    validity: Option<String>,
    invalid_reason: Option<String>,
    refused_cid: Option<String>,
    first_indexed_at: String,
    last_indexed_at: String,
    #[serde(default)]
    stale: bool,
}

impl Task {
    /// Reads a task.
    ///
    /// # Errors
    /// If `body` is not one.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidTask> {
        let envelope: Envelope = read(body)?;
        let did = Did::parse(&envelope.did).map_err(|error| InvalidTask::of("did", error))?;
        let time = datetime("timestamp", &envelope.timestamp)?;
        let row = match envelope.kind.as_str() {
            "account" => account(read(body)?, &did, time)?,
            "upsert" | "delete" => record(read(body)?, &envelope.kind, &did, time)?,
            kind => return Err(InvalidTask::of("type", format_args!("{kind:?}"))),
        };
        Ok(Self {
            feed: id("feed", &envelope.feed)?,
            change: Change {
                epoch: id("epoch", &envelope.epoch)?,
                number: number("change", envelope.change)?,
                row,
            },
        })
    }
}

fn account(account: Account, did: &Did, time: ByteString) -> Result<ChangedRow, InvalidTask> {
    let removed_at = account.removed_at.as_deref();
    let removal_change = account.removal_change;
    let handle_status = HandleStatus::parse(&account.handle_status);
    Ok(ChangedRow::Account(Box::new(ChangedAccount {
        did: did.to_string().into(),
        is_active: account.active,
        status: account
            .status
            .map(|text| short("status", text))
            .transpose()?,
        handle: account
            .handle
            .map(|text| word("handle", text))
            .transpose()?,
        handle_status: handle_status.as_str().into(),
        removed_at: removed_at
            .map(|time| datetime("removed_at", time))
            .transpose()?,
        removal_change: removal_change
            .map(|change| number("removal_change", change))
            .transpose()?,
        // When the row was written does not travel; no reader sees it.
        updated_at: time.clone(),
        time,
    })))
}

fn record(
    record: Record<'_>,
    kind: &str,
    did: &Did,
    time: ByteString,
) -> Result<ChangedRow, InvalidTask> {
    let collection = Nsid::parse(&record.collection);
    let collection = collection.map_err(|error| InvalidTask::of("collection", error))?;
    let rkey = RecordKey::parse(&record.rkey).map_err(|error| InvalidTask::of("rkey", error))?;
    let rev = Tid::parse(&record.rev).map_err(|error| InvalidTask::of("rev", error))?;
    let uri = format!("at://{did}/{collection}/{rkey}");
    if record.uri != uri {
        return Err(InvalidTask::of("uri", "it is not that of its parts"));
    }
    let json = record.record.map(RawValue::get);
    if json.is_some() != (kind == "upsert") || json.is_some_and(|json| !json.starts_with('{')) {
        return Err(InvalidTask::of(
            "record",
            "an upsert has an object, and a delete has none",
        ));
    }
    if json.is_some() && record.cid.is_none() {
        return Err(InvalidTask::of("cid", "an upsert has one"));
    }
    let validity = record.validity;
    let is_known = |word: &String| VALIDITIES.contains(&word.as_str());
    if validity.as_ref().is_some_and(|word| !is_known(word)) {
        return Err(InvalidTask::of("validity", "no such word is known"));
    }
    Ok(ChangedRow::Record(Box::new(ChangedRecord {
        uri: uri.into(),
        did: did.to_string().into(),
        collection: collection.to_string().into(),
        rkey: rkey.to_string().into(),
        cid: record.cid.map(|text| word("cid", text)).transpose()?,
        rev: rev.to_string().into(),
        seq: number("seq", record.seq)?,
        source: word("source", record.source)?,
        time,
        record: json.map(ByteString::from),
        record_cbor: None,
        validity: validity.map(ByteString::from),
        invalid_reason: record.invalid_reason.map(ByteString::from),
        refused_cid: record
            .refused_cid
            .map(|text| word("refused_cid", text))
            .transpose()?,
        verified: word("verified", record.verified)?,
        first_indexed_at: datetime("first_indexed_at", &record.first_indexed_at)?,
        last_indexed_at: datetime("last_indexed_at", &record.last_indexed_at)?,
        is_stale: record.stale,
    })))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, InvalidTask> {
    serde_json::from_slice(body).map_err(|error| InvalidTask(error.to_string()))
}

/// Datetimes are compared as text, so there is one form of each.
fn datetime(field: &str, text: &str) -> Result<ByteString, InvalidTask> {
    let time: Timestamp = text
        .parse()
        .map_err(|_| InvalidTask::of(field, "it is no datetime"))?;
    Ok(sortable(time).into())
}

fn id(field: &str, text: &str) -> Result<RandomId, InvalidTask> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match !text.is_empty() && text.len() <= LONGEST_ID && is_word {
        true => Ok(RandomId::new(text)),
        false => Err(InvalidTask::of(field, "it is no id")),
    }
}

/// Databases count with 63 bits.
fn number(field: &str, number: u64) -> Result<u64, InvalidTask> {
    match i64::try_from(number) {
        Ok(_) => Ok(number),
        Err(_) => Err(InvalidTask::of(field, "it is too large")),
    }
}

fn short(field: &str, text: String) -> Result<ByteString, InvalidTask> {
    match text.len() <= LONGEST_WORD {
        true => Ok(text.into()),
        false => Err(InvalidTask::of(field, "it is too long")),
    }
}

/// Some databases have no place for a NUL in text.
fn word(field: &str, text: String) -> Result<ByteString, InvalidTask> {
    match text.contains('\0') {
        true => Err(InvalidTask::of(field, "it has a NUL")),
        false => short(field, text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sink::item::{Body, item};

    fn of_record(record: Option<&str>) -> Change {
        let record = ChangedRecord {
            uri: "at://did:plc:ann/com.huddle.note/a".into(),
            did: "did:plc:ann".into(),
            collection: "com.huddle.note".into(),
            rkey: "a".into(),
            cid: record.map(|_| "bafy".into()),
            rev: "3k22222222222".into(),
            seq: 7,
            source: "wss://relay".into(),
            time: "2026-01-01T00:00:00.000Z".into(),
            record: record.map(Into::into),
            record_cbor: None,
            validity: record.map(|_| "invalid".into()),
            invalid_reason: record.map(|_| "no title".into()),
            refused_cid: None,
            verified: "chain".into(),
            first_indexed_at: "2026-01-01T00:00:01.000Z".into(),
            last_indexed_at: "2026-01-01T00:00:02.000Z".into(),
            is_stale: false,
        };
        of_row(ChangedRow::Record(Box::new(record)))
    }

    fn of_row(row: ChangedRow) -> Change {
        Change {
            epoch: RandomId::new("e"),
            number: 9,
            row,
        }
    }

    fn text(change: &Change) -> String {
        item(change, &RandomId::new("f"), Body::With).unwrap()
    }

    fn parsed(change: &Change) -> Change {
        let task = Task::parse(text(change).as_bytes()).unwrap();
        assert_eq!(task.feed, RandomId::new("f"));
        task.change
    }

    #[test]
    fn a_task_is_read_as_it_was_written() {
        for change in [of_record(Some("{\"n\":1}")), of_record(None)] {
            assert_eq!(parsed(&change), change);
        }
        let account = ChangedAccount {
            did: "did:plc:ann".into(),
            is_active: false,
            status: Some("deleted".into()),
            handle: None,
            handle_status: "unknown".into(),
            removed_at: Some("2026-01-01T00:00:00.000Z".into()),
            removal_change: Some(8),
            time: "2026-01-01T00:00:00.000Z".into(),
            updated_at: "2026-01-01T00:00:00.000Z".into(),
        };
        let account = of_row(ChangedRow::Account(Box::new(account)));
        assert_eq!(parsed(&account), account);
    }

    #[test]
    fn what_is_no_task_is_refused_by_the_name_of_the_field() {
        let good: Value = serde_json::from_str(&text(&of_record(Some("{}")))).unwrap();
        for (field, wrong) in [
            ("type", json!("insert")),
            ("did", json!("ann")),
            ("collection", json!("note")),
            ("rkey", json!("a/b")),
            ("uri", json!("at://did:plc:bob/com.huddle.note/a")),
            ("rev", json!("3k")),
            ("record", json!([1])),
            ("record", Value::Null),
            ("cid", Value::Null),
            ("timestamp", json!("yesterday")),
            ("last_indexed_at", json!("")),
            ("validity", json!("perhaps")),
            ("feed", json!("a:b")),
            ("epoch", json!("")),
            ("change", json!(u64::MAX)),
            ("seq", json!(u64::MAX)),
            ("source", json!("x".repeat(5000))),
        ] {
            let mut task = good.clone();
            task[field] = wrong.clone();
            let error = Task::parse(task.to_string().as_bytes()).unwrap_err();
            assert!(
                error.to_string().contains(field),
                "{field} {wrong}: {error}"
            );
        }
        assert!(Task::parse(b"{").is_err());
        assert!(Task::parse(&[0xff]).is_err());
    }
}
