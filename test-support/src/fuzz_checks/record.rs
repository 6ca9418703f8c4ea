//! The conversion of a record to a row: DAG-CBOR, JSON, lexicon, projection.

use std::sync::{Arc, LazyLock};

use crate::record_json::dag_cbor_to_json;
use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use huddle_firehose::atproto::cbor_value::CborValue;
use huddle_firehose::atproto::event::{Change, Commit, PutAction, RecordOp};
use huddle_firehose::atproto::json;
use huddle_firehose::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use huddle_firehose::huddle::{Projection, project};
use huddle_firehose::lexicon::sanitize::sanitize;
use huddle_firehose::lexicon::{DataValue, Schemas, Validation};
use huddle_firehose::model::{SourceId, Stage, Validity};
use huddle_firehose::source::interest::Interest;
use huddle_firehose::source::process::records::Rules;
use huddle_firehose::store::plan::effect::{RecordChange, RecordUpsert};
use huddle_firehose::store::plan::index_task::{IndexTask, with_record};
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};
use simulated_network::car::address_of;

const COLLECTIONS: [&str; 4] = [
    "com.huddle.booking",
    "com.huddle.bookingRequest",
    "com.huddle.slotOffer",
    "com.huddle.withoutSchema",
];

/// The rules under each policy.
static RULES: LazyLock<[Rules; 3]> = LazyLock::new(|| {
    ["reject", "flag", "off"].map(|policy| Rules {
        source: SourceId::new("wss://relay.example/"),
        interest: Arc::new(Interest::new(["*".parse().expect("a pattern")])),
        schemas: Schemas::embedded().expect("the schemas of the program"),
        policies: policy.parse().expect("a policy"),
    })
});

pub fn check(cbor: &[u8]) {
    let Ok(mut json) = dag_cbor_to_json(cbor) else {
        return;
    };
    check_decoding(cbor, &json);
    let text = json.to_string();
    assert_eq!(
        serde_json::from_str::<Value>(&text).ok(),
        Some(json.clone())
    );
    if !json.is_object() {
        return;
    }
    for collection in COLLECTIONS {
        check_effects(&created(collection, cbor));
    }
    // A record is judged in place, as its JSON would be. Only the JSON of a link is an object too.
    let value = CborValue::of(cbor);
    for collection in COLLECTIONS.into_iter().filter(|_| value.is_map()) {
        let schemas = &RULES[0].schemas;
        let verdict = schemas.validate(collection, value);
        assert_eq!(verdict, schemas.validate(collection, &json));
        let row = project(collection, value).ok();
        assert_eq!(row, project(collection, &json).ok());
    }
    // As if the record named the right collection, which random input rarely does.
    for collection in COLLECTIONS {
        json["$type"] = collection.into();
        check_row(collection, &json);
    }
}

/// Accepted DAG-CBOR has no other encoding, and another decoder reads the same value.
fn check_decoding(cbor: &[u8], json: &Value) {
    let value: Ipld = serde_ipld_dagcbor::from_slice(cbor).expect("another decoder reads it too");
    let again = serde_ipld_dagcbor::to_vec(&value).expect("a value of the data model");
    assert_eq!(again, cbor, "{value:?}");
    assert_eq!(json_of(value), *json);
}

fn json_of(value: Ipld) -> Value {
    match value {
        Ipld::Null => Value::Null,
        Ipld::Bool(bool) => bool.into(),
        Ipld::Integer(integer) => match u64::try_from(integer) {
            Ok(integer) => integer.into(),
            Err(_) => i64::try_from(integer).expect("64 bits").into(),
        },
        Ipld::Float(float) => panic!("the data model has no {float}"),
        Ipld::String(text) => text.into(),
        Ipld::Bytes(bytes) => json!({ "$bytes": BASE64_NOPAD.encode(&bytes) }),
        Ipld::List(items) => items.into_iter().map(json_of).collect(),
        Ipld::Map(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, json_of(value)))
            .collect(),
        Ipld::Link(cid) => json!({ "$link": cid.to_string() }),
    }
}

fn check_row(collection: &str, json: &Value) {
    let validation = RULES[0].schemas.validate(collection, json);
    if let Validation::Invalid(error) = &validation {
        assert!(!error.reason.is_empty());
    }
    match project(collection, json) {
        Ok(Some(row)) => check_projection(&row),
        Ok(None) => assert_eq!(validation, Validation::NoSchema),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Datetimes of a row sort as text, and its text is sanitized.
fn check_projection(row: &Projection) {
    let (datetimes, texts) = match row {
        Projection::Booking(row) => {
            assert!(row.starts_at < row.ends_at);
            (
                vec![&row.starts_at, &row.ends_at, &row.created_at],
                vec![&row.status],
            )
        }
        Projection::BookingRequest(row) => (
            [&row.created_at]
                .into_iter()
                .chain(&row.requested_start)
                .collect(),
            [&row.status].into_iter().chain(&row.note).collect(),
        ),
        Projection::SlotOffer(row) => {
            assert!(row.starts_at < row.ends_at);
            let optional = [&row.description, &row.timezone, &row.location];
            let texts = [&row.title, &row.status].into_iter();
            (
                vec![&row.starts_at, &row.ends_at, &row.created_at],
                texts
                    .chain(optional.into_iter().flatten())
                    .chain(&row.tags)
                    .collect(),
            )
        }
    };
    for datetime in datetimes {
        assert_eq!(
            datetime.len(),
            "2026-01-31T23:59:59.999Z".len(),
            "{datetime}"
        );
        assert!(datetime.ends_with('Z'));
    }
    for text in texts {
        assert_eq!(sanitize(text), text.as_str());
    }
}

fn created(collection: &str, record: &[u8]) -> Commit {
    let op = RecordOp {
        collection: Nsid::parse(collection).expect("a collection of this file"),
        rkey: RecordKey::parse("self").expect("a record key"),
        change: Change::Put {
            action: PutAction::Create,
            cid: address_of(record),
            record: Bytes::copy_from_slice(record),
        },
    };
    let cid = address_of(b"");
    Commit {
        seq: 7,
        did: Did::parse("did:plc:ann").expect("a DID"),
        rev: Tid::parse("3jzfcijpj2z2a").expect("a TID"),
        since: None,
        time: "2026-07-04T14:38:07Z".parse().expect("a time"),
        commit: cid,
        data: cid,
        prev_data: None,
        ops: vec![op],
        misnamed: Vec::new(),
    }
}

/// Each operation has an effect, and the resulting task can be read back.
pub(crate) fn check_effects(commit: &Commit) {
    for rules in &*RULES {
        let records = rules.records_of(commit, None);
        assert!(records.len() >= commit.ops.len() + commit.misnamed.len());
        for record in &records {
            match record {
                RecordChange::Upsert(upsert) => check_upsert(upsert, rules),
                RecordChange::DeadLetter(letter) => {
                    assert!(!letter.error.is_empty());
                    assert_eq!(letter.task.is_some(), letter.stage == Stage::Validate);
                    if let Some(task) = &letter.task {
                        assert!(read_task(&with_record(task, &letter.raw)).record.is_some());
                    }
                }
                RecordChange::Delete(delete) => {
                    let task = IndexTask::delete(&delete.version, &rules.source, 1);
                    read_task(&serde_json::to_string(&task).expect("a task is JSON"));
                }
                RecordChange::Refuse(refusal) => assert!(!refusal.reason.is_empty()),
            }
        }
    }
}

fn check_upsert(upsert: &RecordUpsert, rules: &Rules) {
    let json = json::dag_cbor_to_json(&upsert.cbor).expect("it was read before");
    assert_eq!(upsert.json_bytes, json.len());
    if let Validity::Invalid { reason } = &upsert.validity {
        assert!(!reason.is_empty());
        assert_eq!(upsert.projection, None);
    }
    if let Some(row) = &upsert.projection {
        check_projection(row);
    }
    let task = IndexTask::upsert(upsert, &rules.source, 1);
    let task = serde_json::to_string(&task).expect("a task is JSON");
    let task = read_task(&with_record(&task, &upsert.cbor));
    assert!(task.record.is_some());
}

fn read_task(json: &str) -> IndexTask {
    let task: IndexTask = serde_json::from_str(json).expect("a task reads back");
    assert_eq!(task.seq, 7);
    task
}
