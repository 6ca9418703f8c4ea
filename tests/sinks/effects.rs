//! Short constructors of effects whose records are real ones.

use std::sync::Arc;

use cid::Cid;
use huddle_firehose::atproto::cbor_value::CborValue;
use huddle_firehose::atproto::json::json_length;
use huddle_firehose::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use huddle_firehose::huddle::project;
use huddle_firehose::model::{Judgement, Position, SourceId, Validity};
use huddle_firehose::store::plan::effect::{
    AccountChange, Effect, IdentityChange, RecordChange, RecordDelete, RecordUpsert, RecordVersion,
};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::store::{Store, WriteBatch};
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) const ALICE: &str = "did:plc:alice";
pub(crate) const BOB: &str = "did:plc:bob";
pub(crate) const PROFILE: &str = "com.huddle.profile";
pub(crate) const OFFER: &str = "com.huddle.slotOffer";
pub(crate) const REQUEST: &str = "com.huddle.bookingRequest";

pub(crate) fn source() -> SourceId {
    SourceId::new("wss://relay.example/xrpc/com.atproto.sync.subscribeRepos")
}

/// Applies `effects` one after another; the cursor follows.
pub(crate) async fn apply(store: &SqliteStore, effects: Vec<Effect>, seq: u64) {
    let batch = WriteBatch {
        source: &source(),
        effects: &effects,
        position: Position { seq, time: None },
        sequence_restarted: false,
    };
    store.apply(&batch).await.unwrap();
}

fn second(n: u64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + n as i64).unwrap()
}

fn rev(n: u64) -> Tid {
    const DIGITS: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";
    let digit = |place: u32| char::from(DIGITS[(n >> (5 * place)) as usize & 31]);
    let number: String = (0..4).rev().map(digit).collect();
    Tid::parse(&format!("3k2222222{number}")).unwrap()
}

fn version(did: &str, collection: &str, rkey: &str, n: u64) -> RecordVersion {
    RecordVersion {
        did: Did::parse(did).unwrap(),
        collection: Nsid::parse(collection).unwrap(),
        rkey: RecordKey::parse(rkey).unwrap(),
        rev: rev(n),
        seq: n,
        time: second(n),
        data: Cid::default(),
        verified: None,
    }
}

/// The record of commit `n`: its rev, seq and time rise with `n`.
pub(crate) fn record(did: &str, collection: &str, rkey: &str, n: u64, record: &Value) -> Effect {
    let cbor = serde_ipld_dagcbor::to_vec(record).unwrap();
    let projection = project(collection, CborValue::of(&cbor)).unwrap();
    let upsert = RecordUpsert {
        cid: Cid::default(),
        json_bytes: json_length(&cbor).unwrap(),
        cbor: cbor.into(),
        validity: Validity::Valid,
        judgement: Judgement::of(["the rules"]),
        version: version(did, collection, rkey, n),
        projection: projection.map(Arc::new),
    };
    Effect::records(vec![RecordChange::Upsert(Box::new(upsert))])
}

pub(crate) fn put(did: &str, rkey: &str, n: u64) -> Effect {
    record(did, PROFILE, rkey, n, &json!({ "$type": PROFILE, "n": n }))
}

pub(crate) fn offer(did: &str, rkey: &str, n: u64) -> Effect {
    let offer = json!({
        "$type": OFFER,
        "title": format!("lesson {n}"),
        "startsAt": "2999-01-01T10:00:00Z",
        "endsAt": "2999-01-01T11:00:00Z",
        "createdAt": "2026-01-01T00:00:00Z",
        "capacity": 2,
        "tags": ["chess", "\"quoted\""],
    });
    record(did, OFFER, rkey, n, &offer)
}

pub(crate) fn request(did: &str, rkey: &str, n: u64, status: &str) -> Effect {
    let request = json!({
        "$type": REQUEST,
        "subject": { "uri": format!("at://{ALICE}/{OFFER}/o"), "cid": Cid::default().to_string() },
        "status": status,
        "createdAt": "2026-01-01T00:00:00Z",
    });
    record(did, REQUEST, rkey, n, &request)
}

pub(crate) fn delete(did: &str, rkey: &str, n: u64) -> Effect {
    let version = version(did, PROFILE, rkey, n);
    Effect::records(vec![RecordChange::Delete(RecordDelete { version })])
}

/// A change of status; `None` means active.
pub(crate) fn account(did: &str, status: Option<&str>, n: u64) -> Effect {
    Effect::Account(AccountChange {
        did: Did::parse(did).unwrap(),
        active: status.is_none(),
        status: status.map(str::to_owned),
        is_unconfirmed: false,
        wants_history: false,
        seq: n,
        time: second(n),
    })
}

pub(crate) fn identity(did: &str, handle: &str, n: u64) -> Effect {
    Effect::Identity(IdentityChange {
        did: Did::parse(did).unwrap(),
        handle: Some(handle.to_owned()),
        seq: n,
        time: second(n),
    })
}
