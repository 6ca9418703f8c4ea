//! Tests the data model with the protocol's own vectors. Records arrive as DAG-CBOR. They are
//! converted to JSON and validated in that form.

use cid::Cid;
use data_encoding::BASE64_NOPAD;
use fastrand::Rng;
use huddle_firehose::atproto::cbor::CborFault;
use huddle_firehose::atproto::event::{Change, Event, PutAction};
use huddle_firehose::lexicon::{Schemas, Validation};
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};
use simulated_network::car::encode;
use simulated_network::frame::{self, Stamp};
use simulated_network::key::SigningKey;
use simulated_network::record::to_ipld;
use simulated_network::repo::{Repository, Write};
use test_support::record_json::dag_cbor_to_json;
use test_support::shared_data::shared_data;

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

/// The cases of a file. Empty if the vectors are missing.
fn cases(file: &str) -> Vec<Value> {
    let Some(path) = shared_data(&format!("interop/data-model/{file}.json")) else {
        return Vec::new();
    };
    let text = std::fs::read_to_string(path).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(!cases.is_empty(), "{file} holds no case");
    cases
}

fn cbor_of(case: &Value) -> Vec<u8> {
    let text = case["cbor_base64"].as_str().unwrap();
    BASE64_NOPAD.decode(text.as_bytes()).unwrap()
}

/// The DAG-CBOR that a server would sign for `json`. It has one number for `123` and `123.0`.
fn ipld(json: &Value) -> Ipld {
    match json {
        Value::Array(items) => Ipld::List(items.iter().map(ipld).collect()),
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap();
            match float.fract() == 0.0 {
                true => Ipld::Integer(float as i128),
                false => Ipld::Float(float),
            }
        }
        Value::Object(entries) => {
            let entries = entries.iter();
            Ipld::Map(
                entries
                    .map(|(key, value)| (key.clone(), ipld(value)))
                    .collect(),
            )
        }
        json => to_ipld(json),
    }
}

#[test]
fn a_record_takes_the_json_form_that_the_vectors_have_for_its_bytes() {
    for case in cases("data-model-fixtures") {
        assert_eq!(dag_cbor_to_json(&cbor_of(&case)), Ok(case["json"].clone()));
    }
}

/// Decodes the only record of a commit.
fn brought(frame: &[u8]) -> Change {
    let interest = Interest::new(["com.example.*".parse().unwrap()]);
    let Content::Event(Event::Commit(mut commit)) = decode(frame, &interest).unwrap().content
    else {
        panic!("it is no commit");
    };
    commit.ops.remove(0).change
}

#[test]
fn a_record_is_accepted_only_with_the_cid_of_its_bytes() {
    for case in cases("data-model-fixtures") {
        let cid: Cid = case["cid"].as_str().unwrap().parse().unwrap();
        let cbor = cbor_of(&case);
        let mut repository = Repository::new(DID, SigningKey::generate(&mut Rng::with_seed(1)));
        let write = Write {
            path: "com.example.record/a".to_owned(),
            value: Some(serde_ipld_dagcbor::from_slice(&cbor).unwrap()),
        };
        let commit = repository.apply(vec![write], "3k22222222222".to_owned());
        let stamp = Stamp {
            seq: 1,
            time: "2026-01-01T00:00:00Z".to_owned(),
        };
        let frame = frame::commit(stamp, DID, commit);
        let expected = Change::Put {
            action: PutAction::Create,
            cid,
            record: cbor.clone().into(),
        };
        assert_eq!(brought(&frame), expected);

        // Other bytes have another CID.
        let at = frame
            .windows(cbor.len())
            .position(|bytes| bytes == cbor)
            .unwrap();
        let mut altered = frame.to_vec();
        altered[at + cbor.len() - 1] ^= 1;
        assert!(matches!(brought(&altered), Change::Missing { .. }), "{cid}");
    }
}

#[test]
fn valid_vectors_are_accepted() {
    for case in cases("data-model-valid") {
        let expected = match case["note"].as_str() {
            Some("float, but integer-like") => {
                json!({ "rcrd": { "$type": "com.example.blah", "a": 123, "b": "blah" } })
            }
            _ => case["json"].clone(),
        };
        let found = dag_cbor_to_json(&encode(&ipld(&case["json"])));
        assert_eq!(found, Ok(expected), "{}", case["note"]);
    }
}

/// A schema with a field for each form, with the names of the vectors.
fn schemas() -> Schemas {
    let record = |id: &str, properties: Value| {
        json!({ "lexicon": 1, "id": id, "defs": { "main": {
            "type": "record", "key": "any",
            "record": { "type": "object", "properties": properties },
        } } })
        .to_string()
    };
    let documents = [
        record("com.example.blah", json!({})),
        record(
            "com.example.forms",
            json!({
                "blob": { "type": "blob" },
                "bytes": { "type": "bytes" },
                "link": { "type": "cid-link" },
            }),
        ),
    ];
    Schemas::load(documents.iter().map(String::as_str)).unwrap()
}

fn is_valid(collection: &str, record: &Value) -> bool {
    schemas().validate(collection, record) == Validation::Valid
}

fn holds_form(name: &str, value: &Value) -> bool {
    let mut record = json!({ "$type": "com.example.forms" });
    record[name] = value.clone();
    is_valid("com.example.forms", &record)
}

#[test]
fn invalid_vectors_are_refused() {
    for case in cases("data-model-invalid") {
        let (note, json) = (case["note"].as_str().unwrap(), &case["json"]);
        if note == "float" {
            let refused = dag_cbor_to_json(&encode(&ipld(json)));
            assert_eq!(refused.unwrap_err().fault, CborFault::Float);
            continue;
        }
        let is_valid = match json.as_object().and_then(|json| json.iter().next()) {
            None => is_valid("com.example.blah", json),
            Some((name, value)) if name == "rcrd" => is_valid("com.example.blah", value),
            Some((name, value)) if name == "blb" => holds_form("blob", value),
            Some((_, value)) if value.get("$bytes").is_some() => holds_form("bytes", value),
            Some((_, value)) => holds_form("link", value),
        };
        assert!(!is_valid, "{note}");
    }
}

/// Shows that the invalid vectors are not refused for another reason.
#[test]
fn the_same_schemas_accept_valid_vectors_in_these_forms() {
    for case in cases("data-model-fixtures") {
        let json = &case["json"];
        for (name, form) in [("a", "$link"), ("b", "$bytes"), ("c", "ref")] {
            let Some(value) = json.get(name).filter(|value| value.get(form).is_some()) else {
                continue;
            };
            let name = match form {
                "$link" => "link",
                "$bytes" => "bytes",
                _ => "blob",
            };
            assert!(holds_form(name, value), "{value}");
        }
    }
    for case in cases("data-model-valid") {
        if let Some(record) = case["json"].get("rcrd") {
            assert!(is_valid("com.example.blah", record), "{}", case["note"]);
        }
    }
}
