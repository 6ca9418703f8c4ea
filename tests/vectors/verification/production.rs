//! Commits of production, with the keys of the DID documents of that time. Holds invariant 9.4.

use std::collections::BTreeMap;
use std::fs;

use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::verify::{CommitEvidence, Level};
use ipld_core::ipld::Ipld;
use serde_json::Value;
use simulated_network::car::encode;
use test_support::shared_data::shared_data;

use super::support::{split, verify};

fn unzstd(path: &std::path::Path) -> Vec<u8> {
    zstd::decode_all(fs::File::open(path).unwrap()).unwrap()
}

/// The key of each account, by DID.
fn keys(folder: &std::path::Path) -> BTreeMap<String, VerifyingKey> {
    let documents = unzstd(&folder.join("did_docs.json.zst"));
    let documents: BTreeMap<String, Value> = serde_json::from_slice(&documents).unwrap();
    let key = |document: &Value| {
        let methods = document["verificationMethod"].as_array().unwrap();
        let method = methods
            .iter()
            .find(|method| method["id"].as_str().unwrap().ends_with("#atproto"))
            .unwrap();
        let text = |field: &str| method[field].as_str().unwrap();
        VerifyingKey::of_method(text("type"), text("publicKeyMultibase")).unwrap()
    };
    documents
        .iter()
        .map(|(did, document)| (did.clone(), key(document)))
        .collect()
}

#[test]
fn every_commit_of_production_verifies_at_level_chain() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    let keys = keys(&folder);
    let frames = unzstd(&folder.join("frames.bin.zst"));
    let mut rest = frames.as_slice();
    let (mut commits, mut ops) = (0, 0);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        rest = behind;
        let (t, payload) = split(frame);
        if t != "#commit" {
            continue;
        }
        let evidence = CommitEvidence::of(payload).unwrap();
        let did = evidence.commit.did.as_str();
        verify(payload, &keys[did], Level::Chain).unwrap();
        let other = keys.iter().find(|(other, _)| *other != did).unwrap().1;
        let error = verify(payload, other, Level::Chain).unwrap_err();
        assert_eq!(error.name(), "signature");
        commits += 1;
        ops += evidence.ops.len();
    }
    assert_eq!(commits, 148);
    assert!(ops >= 150, "only {ops} operations");
}

/// The data model's JSON, as far as a commit needs it.
fn ipld(json: &Value) -> Ipld {
    let text = |field: &str| json.get(field).and_then(Value::as_str);
    if let Some(cid) = text("$link") {
        return Ipld::Link(cid.parse().unwrap());
    }
    if let Some(bytes) = text("$bytes") {
        return Ipld::Bytes(
            data_encoding::BASE64_NOPAD
                .decode(bytes.as_bytes())
                .unwrap(),
        );
    }
    match json {
        Value::Null => Ipld::Null,
        Value::Bool(bool) => Ipld::Bool(*bool),
        Value::Number(number) => Ipld::Integer(number.as_i64().unwrap().into()),
        Value::String(text) => Ipld::from(text.as_str()),
        Value::Array(items) => Ipld::List(items.iter().map(ipld).collect()),
        Value::Object(fields) => {
            let fields = fields.iter();
            Ipld::Map(
                fields
                    .map(|(key, value)| (key.clone(), ipld(value)))
                    .collect(),
            )
        }
    }
}

#[test]
fn an_older_commit_of_production_is_decoded_and_names_no_previous_tree() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    for seq in [4_621_317_030_u64, 4_621_317_332] {
        let file = folder.join(format!("indigo_firehose_commit_{seq}.json"));
        let payload: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let evidence = CommitEvidence::of(&encode(&ipld(&payload))).unwrap();
        assert_eq!(evidence.ops.len(), 1);
        assert_eq!((evidence.since, evidence.prev_data), (None, None));
    }
}
