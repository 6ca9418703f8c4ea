//! Commits of the reference server, with the keys that their accounts had one after another.
//! Holds invariants 7.5 and 9.4.

use std::collections::BTreeMap;
use std::fs;

use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::verify::{CommitEvidence, Level};
use ipld_core::ipld::Ipld;
use serde_json::Value;
use test_support::shared_data::shared_recording;

use super::support::{split, verify};

/// The keys of each account, by DID, from the log of the PLC directory.
fn keys(log: &str) -> BTreeMap<String, Vec<VerifyingKey>> {
    let mut keys = BTreeMap::<String, Vec<VerifyingKey>>::new();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let Some(key) = entry["operation"]["verificationMethods"]["atproto"].as_str() else {
            continue;
        };
        let key = key.strip_prefix("did:key:").unwrap().parse().unwrap();
        let did = entry["did"].as_str().unwrap().to_owned();
        keys.entry(did).or_default().push(key);
    }
    keys
}

/// It accepts several operations on one path. Each names the record before the whole commit.
#[test]
fn every_commit_of_the_reference_server_verifies_at_level_chain() {
    let recording = shared_recording("frames-small.bin");
    let log = shared_recording("small-plc.jsonl");
    let Some((recording, log)) = recording.zip(log) else {
        return;
    };
    let keys = keys(&fs::read_to_string(log).unwrap());
    let recording = fs::read(recording).unwrap();
    let mut rest = recording.as_slice();
    let (mut commits, mut repeated) = (0, 0);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        rest = behind;
        let (t, payload) = split(frame);
        if t != "#commit" {
            continue;
        }
        let evidence = CommitEvidence::of(payload).unwrap();
        let keys = &keys[evidence.commit.did.as_str()];
        let mut verified = keys.iter().map(|key| verify(payload, key, Level::Chain));
        assert!(verified.any(|verified| verified.is_ok()), "{evidence:?}");
        commits += 1;
        repeated += usize::from(evidence.ops.len() < operations(payload));
    }
    assert_eq!((commits, repeated), (228, 3));
}

fn operations(payload: &[u8]) -> usize {
    let payload: Ipld = serde_ipld_dagcbor::from_slice(payload).unwrap();
    match payload.take("ops") {
        Ok(Some(Ipld::List(ops))) => ops.len(),
        other => panic!("ops are {other:?}"),
    }
}
