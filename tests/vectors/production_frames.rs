//! Compares decoded frames of the production relay with the output of production Jetstream for the
//! same events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cid::Cid;
use huddle_firehose::atproto::event::{Change, Commit, Event, PutAction};
use huddle_firehose::atproto::skim::{Kind, splice_seq};
use huddle_firehose::delivery::segment::RawPosition;
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};
use test_support::record_json::dag_cbor_to_json;
use test_support::shared_data::shared_data;

/// `[u32 little-endian length][frame]…`, compressed.
fn frames(folder: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::File::open(folder.join("frames.bin.zst")).unwrap();
    let bytes = zstd::decode_all(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = behind;
    }
    frames
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// The expected events that are commits. Each is one operation.
fn expected_operations(folder: &Path) -> Vec<Value> {
    std::fs::read_to_string(folder.join("expected_v1.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["kind"] == "commit")
        .map(|event| {
            let mut operation = event["commit"].clone();
            operation["did"] = event["did"].clone();
            operation
        })
        .collect()
}

/// The operations in the form of the expected ones.
fn operations(commit: &Commit) -> Vec<Value> {
    let operation = |op: &huddle_firehose::atproto::event::RecordOp| {
        let mut value = json!({
            "did": commit.did,
            "rev": commit.rev,
            "collection": op.collection,
            "rkey": op.rkey,
        });
        match &op.change {
            Change::Put {
                action,
                cid,
                record,
            } => {
                value["operation"] = match action {
                    PutAction::Create => "create".into(),
                    PutAction::Update => "update".into(),
                };
                value["cid"] = cid.to_string().into();
                value["record"] = dag_cbor_to_json(record).unwrap();
            }
            Change::Delete => value["operation"] = "delete".into(),
            Change::Broken { reason, .. } | Change::Missing { reason, .. } => {
                panic!("broken operation: {reason}")
            }
        }
        value
    };
    commit.ops.iter().map(operation).collect()
}

fn decoded_operations(frames: &[Vec<u8>], interest: &Interest) -> Vec<Value> {
    frames
        .iter()
        .filter_map(|frame| match decode(frame, interest).unwrap().content {
            Content::Event(Event::Commit(commit)) => Some(operations(&commit)),
            _ => None,
        })
        .flatten()
        .collect()
}

/// Jetstream keeps the order only within a repository.
fn as_set(operations: Vec<Value>) -> BTreeSet<String> {
    operations.iter().map(Value::to_string).collect()
}

fn interest(patterns: &[&str]) -> Interest {
    Interest::new(patterns.iter().map(|pattern| pattern.parse().unwrap()))
}

#[test]
fn every_operation_equals_the_output_of_jetstream() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    let decoded = decoded_operations(&frames(&folder), &interest(&["*"]));
    let expected = expected_operations(&folder);
    assert_eq!(decoded.len(), expected.len());
    assert_eq!(as_set(decoded), as_set(expected));
}

#[test]
fn a_prefix_selects_its_collections_and_no_others() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    let decoded = decoded_operations(&frames(&folder), &interest(&["app.bsky.feed.*"]));
    let mut expected = expected_operations(&folder);
    expected.retain(|operation| {
        let collection = operation["collection"].as_str().unwrap();
        collection.starts_with("app.bsky.feed.")
    });
    assert_eq!(decoded.len(), 138);
    assert_eq!(as_set(decoded), as_set(expected));
}

#[test]
fn the_counts_equal_the_manifest() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    let (manifest, frames) = (manifest(&folder), frames(&folder));
    assert_eq!(manifest["frames"], frames.len());

    let nothing = Interest::default();
    let decoded: Vec<_> = frames
        .iter()
        .map(|frame| decode(frame, &nothing).unwrap())
        .collect();
    let count = |kind| decoded.iter().filter(|d| d.kind == Some(kind)).count();
    assert_eq!(manifest["commit_frames"], count(Kind::Commit));
    assert_eq!(manifest["identity"], count(Kind::Identity));
    assert_eq!(manifest["account"], count(Kind::Account));
    assert!(decoded.iter().all(|decoded| {
        decoded
            .raw_position()
            .and_then(|place| place.position().time)
            .is_some()
    }));

    let seqs: Vec<u64> = decoded.iter().filter_map(|decoded| decoded.seq).collect();
    assert_eq!(seqs.len(), frames.len());
    assert!(seqs.is_sorted());
    assert_eq!(manifest["seq_first"], seqs[0]);
    assert_eq!(manifest["seq_last"], seqs[seqs.len() - 1]);

    let mut actions = BTreeMap::<String, u64>::new();
    for operation in decoded_operations(&frames, &interest(&["*"])) {
        let action = operation["operation"].as_str().unwrap();
        *actions.entry(format!("{action}s")).or_default() += 1;
    }
    for (action, count) in actions {
        assert_eq!(manifest[&action], count, "{action}");
    }
}

#[test]
fn a_replaced_seq_does_not_change_the_event() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    let everything = interest(&["*"]);
    for frame in frames(&folder) {
        let original = decode(&frame, &everything).unwrap();
        let spliced = splice_seq(&frame, 5).unwrap();
        let decoded = decode(&spliced, &everything).unwrap();
        assert_eq!(decoded.seq, Some(5));
        let time = |place: Option<RawPosition<'_>>| place.and_then(|place| place.position().time);
        assert_eq!(time(decoded.raw_position()), time(original.raw_position()));
        let restored = splice_seq(&spliced, original.seq.unwrap()).unwrap();
        assert_eq!(restored, frame);
    }
}

/// Converts the JSON form of the data model to a generic value: the inverse of
/// [`dag_cbor_to_json`].
fn ipld_of(json: &Value) -> Ipld {
    match json {
        Value::Null => Ipld::Null,
        Value::Bool(value) => Ipld::Bool(*value),
        Value::Number(value) => Ipld::Integer(value.as_i64().unwrap().into()),
        Value::String(value) => Ipld::String(value.clone()),
        Value::Array(values) => Ipld::List(values.iter().map(ipld_of).collect()),
        Value::Object(entries) => {
            if let Some(link) = entries.get("$link").and_then(Value::as_str) {
                return Ipld::Link(link.parse::<Cid>().unwrap());
            }
            if let Some(bytes) = entries.get("$bytes").and_then(Value::as_str) {
                let bytes = bytes.trim_end_matches('=').as_bytes();
                return Ipld::Bytes(data_encoding::BASE64_NOPAD.decode(bytes).unwrap());
            }
            let entries = entries.iter();
            Ipld::Map(entries.map(|(k, v)| (k.clone(), ipld_of(v))).collect())
        }
    }
}

#[test]
fn a_commit_without_prev_data_is_decoded() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    for seq in [4_621_317_030_u64, 4_621_317_332] {
        let file = folder.join(format!("indigo_firehose_commit_{seq}.json"));
        let payload: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let header = ipld_of(&json!({ "t": "#commit", "op": 1 }));
        let mut frame = serde_ipld_dagcbor::to_vec(&header).unwrap();
        frame.extend(serde_ipld_dagcbor::to_vec(&ipld_of(&payload)).unwrap());

        let everything = interest(&["*"]);
        let decoded = decode(&frame, &everything).unwrap();
        let Content::Event(Event::Commit(commit)) = decoded.content else {
            panic!("not a commit: {decoded:?}");
        };
        assert_eq!(commit.seq, seq);
        assert_eq!(commit.prev_data, None);
        let [operation] = &operations(&commit)[..] else {
            panic!("not one operation: {commit:?}");
        };
        assert_eq!(operation["operation"], "create");
        assert_eq!(operation["record"]["$type"], "app.bsky.feed.repost");
    }
}
