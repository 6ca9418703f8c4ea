//! A change as JSON: the item of `GET /changes`, and the message of queues and webhooks.
//!
//! A record is an index task, `{type, collection, uri, did, rkey, record?, timestamp}`, with what a
//! consumer needs beside it. An account is `{type: "account", did, active, status, ...}`.

use std::io::Write;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::{Change, ChangedAccount, ChangedRecord, ChangedRow, RandomId};

/// What an item has beside the row's texts, if they are not unusually long.
const FIELD_BYTES: usize = 512;

/// Whether an item has the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    With,
    Without,
    /// It is too large for the message, which says so: its consumer asks the account's host.
    Omitted,
}

/// The JSON of `change`, which is of `feed`.
///
/// # Errors
/// If the database holds a record that is no JSON.
pub fn item(change: &Change, feed: &RandomId, body: Body) -> Result<String, serde_json::Error> {
    let mut json = Vec::with_capacity(change.row.bytes() + FIELD_BYTES);
    write_item(change, feed, body, &mut json)?;
    String::from_utf8(json).map_err(serde::ser::Error::custom)
}

/// Writes it.
///
/// # Errors
/// As [`item`]. Then a part of it may be written.
pub(super) fn write_item(
    change: &Change,
    feed: &RandomId,
    body: Body,
    into: impl Write,
) -> Result<(), serde_json::Error> {
    match &change.row {
        ChangedRow::Account(account) => {
            serde_json::to_writer(into, &AccountItem::of(change, feed, account))
        }
        ChangedRow::Record(record) => {
            serde_json::to_writer(into, &RecordItem::of(change, feed, record, body)?)
        }
    }
}

#[derive(Serialize)]
struct RecordItem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    collection: &'a str,
    uri: &'a str,
    did: &'a str,
    rkey: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
    timestamp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<&'a str>,
    rev: &'a str,
    seq: u64,
    source: &'a str,
    feed: &'a RandomId,
    epoch: &'a RandomId,
    change: u64,
    verified: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    validity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_cid: Option<&'a str>,
    first_indexed_at: &'a str,
    last_indexed_at: &'a str,
    /// The record exists, but may not be up to date: the set of interest did not want it for a while. So
    /// it is deleted for those who show it.
    #[serde(skip_serializing_if = "is_false")]
    stale: bool,
    #[serde(skip_serializing_if = "is_false")]
    omitted: bool,
}

#[derive(Serialize)]
struct AccountItem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    did: &'a str,
    active: bool,
    status: Option<&'a str>,
    handle: Option<&'a str>,
    handle_status: &'a str,
    removed_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removal_change: Option<u64>,
    timestamp: &'a str,
    feed: &'a RandomId,
    epoch: &'a RandomId,
    change: u64,
}

/// serde passes a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl<'a> RecordItem<'a> {
    fn of(
        change: &'a Change,
        feed: &'a RandomId,
        row: &'a ChangedRecord,
        body: Body,
    ) -> Result<Self, serde_json::Error> {
        let is_shown = row.record.is_some() && !row.is_stale;
        let record = row
            .record
            .as_deref()
            .filter(|_| is_shown && body == Body::With);
        Ok(Self {
            kind: if is_shown { "upsert" } else { "delete" },
            collection: &row.collection,
            uri: &row.uri,
            did: &row.did,
            rkey: &row.rkey,
            record: record.map(serde_json::from_str).transpose()?,
            timestamp: &row.time,
            cid: row.cid.as_deref(),
            rev: &row.rev,
            seq: row.seq,
            source: &row.source,
            feed,
            epoch: &change.epoch,
            change: change.number,
            verified: &row.verified,
            validity: row.validity.as_deref(),
            invalid_reason: row.invalid_reason.as_deref(),
            refused_cid: row.refused_cid.as_deref(),
            first_indexed_at: &row.first_indexed_at,
            last_indexed_at: &row.last_indexed_at,
            stale: row.is_stale,
            omitted: is_shown && body == Body::Omitted,
        })
    }
}

impl<'a> AccountItem<'a> {
    fn of(change: &'a Change, feed: &'a RandomId, row: &'a ChangedAccount) -> Self {
        Self {
            kind: "account",
            did: &row.did,
            active: row.is_active,
            status: row.status.as_deref(),
            handle: row.handle.as_deref(),
            handle_status: &row.handle_status,
            removed_at: row.removed_at.as_deref(),
            removal_change: row.removal_change,
            timestamp: &row.time,
            feed,
            epoch: &change.epoch,
            change: change.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record(json: Option<&str>) -> ChangedRecord {
        ChangedRecord {
            uri: "at://did:plc:ann/com.huddle.note/a".into(),
            did: "did:plc:ann".into(),
            collection: "com.huddle.note".into(),
            rkey: "a".into(),
            cid: json.map(|_| "bafy".into()),
            rev: "3k".into(),
            seq: 7,
            source: "wss://relay".into(),
            time: "2026-01-01T00:00:00.000Z".into(),
            record: json.map(Into::into),
            record_cbor: None,
            validity: json.map(|_| "valid".into()),
            invalid_reason: None,
            refused_cid: None,
            verified: "chain".into(),
            first_indexed_at: "2026-01-01T00:00:01.000Z".into(),
            last_indexed_at: "2026-01-01T00:00:02.000Z".into(),
            is_stale: false,
        }
    }

    fn item_of(row: ChangedRow, body: Body) -> Value {
        let change = Change {
            epoch: RandomId::new("e"),
            number: 9,
            row,
        };
        let text = item(&change, &RandomId::new("f"), body).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_record_is_an_index_task_with_what_a_consumer_needs() {
        let row = || ChangedRow::Record(Box::new(record(Some("{\"n\":1}"))));
        let expected = json!({
            "type": "upsert", "collection": "com.huddle.note",
            "uri": "at://did:plc:ann/com.huddle.note/a", "did": "did:plc:ann", "rkey": "a",
            "record": { "n": 1 }, "timestamp": "2026-01-01T00:00:00.000Z", "cid": "bafy",
            "rev": "3k", "seq": 7, "source": "wss://relay", "feed": "f", "epoch": "e", "change": 9,
            "verified": "chain", "validity": "valid",
            "first_indexed_at": "2026-01-01T00:00:01.000Z",
            "last_indexed_at": "2026-01-01T00:00:02.000Z",
        });
        assert_eq!(item_of(row(), Body::With), expected);
        let bare = item_of(row(), Body::Without);
        assert_eq!(bare["type"], "upsert");
        assert_eq!((bare.get("record"), bare.get("omitted")), (None, None));
        let omitted = item_of(row(), Body::Omitted);
        assert_eq!(omitted["type"], "upsert");
        assert_eq!(
            (omitted.get("record"), &omitted["omitted"]),
            (None, &json!(true))
        );
        assert_eq!(
            (&omitted["cid"], &omitted["rev"]),
            (&json!("bafy"), &json!("3k"))
        );
    }

    #[test]
    fn a_tombstone_and_a_stale_record_are_deletions_without_a_record() {
        let gone = item_of(ChangedRow::Record(Box::new(record(None))), Body::With);
        assert_eq!(
            (&gone["type"], gone.get("record")),
            (&json!("delete"), None)
        );
        let gone = item_of(ChangedRow::Record(Box::new(record(None))), Body::Omitted);
        assert_eq!(gone.get("omitted"), None);
        let stale = ChangedRecord {
            is_stale: true,
            ..record(Some("{}"))
        };
        let stale = item_of(ChangedRow::Record(Box::new(stale)), Body::With);
        assert_eq!(
            (&stale["type"], stale.get("record")),
            (&json!("delete"), None)
        );
        assert_eq!(stale["stale"], true);
    }

    #[test]
    fn an_account_says_what_was_removed() {
        let account = ChangedAccount {
            did: "did:plc:ann".into(),
            is_active: false,
            status: Some("deleted".into()),
            handle: None,
            handle_status: "unknown".into(),
            removed_at: Some("2026-01-01T00:00:00.000Z".into()),
            removal_change: Some(9),
            time: "2026-01-01T00:00:00.000Z".into(),
            updated_at: "2026-01-01T00:00:02.000Z".into(),
        };
        assert_eq!(
            item_of(ChangedRow::Account(Box::new(account)), Body::With),
            json!({
                "type": "account", "did": "did:plc:ann", "active": false, "status": "deleted",
                "handle": null, "handle_status": "unknown", "removed_at": "2026-01-01T00:00:00.000Z", "removal_change": 9,
                "timestamp": "2026-01-01T00:00:00.000Z", "feed": "f", "epoch": "e", "change": 9,
            })
        );
    }
}
