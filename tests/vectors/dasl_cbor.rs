//! Tests strict decoding with the DASL conformance cases for DRISL and DAG-CBOR.
//! Holds invariants 9.1 and 9.2.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::Deserialize;
use test_support::record_json::dag_cbor_to_json;
use test_support::shared_data::shared_data;

#[derive(Deserialize)]
struct Case {
    #[serde(rename = "type")]
    kind: Kind,
    data: String,
    name: String,
    tags: Vec<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Must be accepted, and encoded to the same bytes.
    Roundtrip,
    /// Must be refused.
    InvalidIn,
    /// Must not be encoded. The worker does not encode CBOR.
    InvalidOut,
}

/// Specifications that DRISL follows. Cases of others only (RFC 8949, dCBOR, CBOR-Core) contradict
/// it, as with floats of half precision.
const OURS: [&str; 3] = ["basic", "dag-cbor", "dasl-cid"];

/// Cases in which this worker's answer differs, and why: there the data model of the AT Protocol
/// differs from DRISL.
const EXCEPTIONS: [(&str, &str); 6] = [
    // The data model has no floats.
    (
        "64-bit floats only",
        "a float, which the data model forbids at byte 0",
    ),
    (
        "zero float64",
        "a float, which the data model forbids at byte 0",
    ),
    (
        "64-bit subnormal number",
        "a float, which the data model forbids at byte 0",
    ),
    // Integers have 64 bits: negative ones down to -2^63, others up to 2^64 - 1.
    (
        "smallest CBOR integer, -(2^64)",
        "an integer below the 64-bit range at byte 0",
    ),
    // A link may point outside the protocol, and blobs "may use other hash types": any CID of
    // version 1 is accepted. For records and commits, whose hash is checked, only SHA-256 is.
    ("CIDv1 that isn't raw or cbor", "accepted"),
    ("disallowed hash type (SHA-1)", "accepted"),
];

#[test]
fn every_case_gets_the_expected_answer_or_is_a_known_exception() {
    let Some(folder) = shared_data("dasl-cbor") else {
        return;
    };
    let mut exceptions: BTreeMap<&str, &str> = EXCEPTIONS.into();
    let mut wrong = Vec::new();
    let mut judged = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for case in cases {
            let is_ours = case.tags.iter().any(|tag| OURS.contains(&tag.as_str()));
            if !is_ours || case.kind == Kind::InvalidOut {
                continue;
            }
            judged += 1;
            let bytes = HEXLOWER.decode(case.data.as_bytes()).unwrap();
            let answer = match dag_cbor_to_json(&bytes) {
                Ok(_) => "accepted".to_owned(),
                Err(error) => error.to_string(),
            };
            let is_expected = (answer == "accepted") == (case.kind == Kind::Roundtrip);
            if !is_expected && exceptions.remove(case.name.as_str()) != Some(&answer) {
                wrong.push(format!("{} ({}): {answer}", case.name, case.data));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(exceptions, BTreeMap::new(), "exceptions that are none");
    assert!(judged > 60, "only {judged} cases were found");
}
