//! Decodes frames of a simulated network, and folds them in the simplest way. Holds invariant 5.2.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use huddle_firehose::atproto::event::{Change, Commit, Event};
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use simulated_network::network::Network;
use simulated_network::oracle::{Account, NetworkState, Record};
use simulated_network::shape::Shape;
use test_support::record_json::dag_cbor_to_json;

use super::network;

#[test]
fn the_decoded_frames_fold_to_the_networks_state() {
    for seed in 0..5 {
        let mut network = network(seed);
        network.steps(300);
        assert_eq!(
            folded(&network),
            wanted(network.oracle().now()),
            "seed {seed}"
        );
    }
}

#[test]
fn every_frame_is_decoded_also_when_repositories_migrate() {
    let mut network = Network::new(100, Shape::default());
    network.steps(500);
    folded(&network);
}

#[test]
fn the_decoder_refuses_exactly_the_invalid_frames_and_records() {
    let mut refused = 0;
    for seed in 0..10 {
        let mut network = Network::new(seed, Shape::adversarial());
        network.steps(300);
        let refusals = network.oracle().refusals().iter();
        let expected: BTreeSet<Refused> = refusals
            .map(|refusal| (refusal.uri.clone(), refusal.raw.clone()))
            .collect();
        assert_eq!(refusals_of(&network), expected, "seed {seed}");
        refused += expected.len();
    }
    assert!(refused > 300, "{refused}");
}

/// The URI of a refused record, or `None` for a whole frame, and its bytes.
type Refused = (Option<String>, Bytes);

fn refusals_of(network: &Network) -> BTreeSet<Refused> {
    let interest = Interest::new(["com.huddle.*".parse().unwrap()]);
    let mut refused = BTreeSet::new();
    for entry in network.log().iter().filter(|entry| !entry.is_text) {
        let Ok(decoded) = decode(&entry.frame, &interest) else {
            refused.insert((None, entry.frame.clone()));
            continue;
        };
        let Content::Event(Event::Commit(commit)) = decoded.content else {
            continue;
        };
        let uri = |path: &str| Some(format!("at://{}/{path}", commit.did));
        for op in &commit.misnamed {
            refused.insert((uri(&op.path), op.record.clone()));
        }
        for op in &commit.ops {
            if let Change::Broken { record, .. } | Change::Missing { record, .. } = &op.change {
                let path = format!("{}/{}", op.collection, op.rkey);
                refused.insert((uri(&path), record.clone()));
            }
        }
    }
    refused
}

fn folded(network: &Network) -> NetworkState {
    let interest = Interest::new(["com.huddle.*".parse().unwrap()]);
    let mut state = NetworkState::new();
    for entry in network.log() {
        let decoded = decode(&entry.frame, &interest).unwrap();
        assert_eq!(decoded.seq, entry.seq);
        let Content::Event(event) = decoded.content else {
            continue;
        };
        match event {
            Event::Account(account) => {
                let known = known(&mut state, account.did.as_str());
                if account.status.as_deref() == Some("deleted") {
                    known.records.clear();
                }
                assert_eq!(account.active, account.status.is_none());
                known.status = account.status;
            }
            Event::Commit(commit) => {
                let known = known(&mut state, commit.did.as_str());
                fold_commit(known, &commit);
            }
            Event::Identity(identity) if identity.handle.is_some() => {
                known(&mut state, identity.did.as_str()).handle = identity.handle;
            }
            Event::Identity(_) | Event::Info(_) | Event::Sync(_) => {}
        }
    }
    state
}

fn known<'a>(state: &'a mut NetworkState, did: &str) -> &'a mut Account {
    state.entry(did.to_owned()).or_default()
}

fn fold_commit(account: &mut Account, commit: &Commit) {
    for op in &commit.ops {
        let path = format!("{}/{}", op.collection, op.rkey);
        match &op.change {
            Change::Put { cid, record, .. } => {
                let value = dag_cbor_to_json(record).unwrap();
                account.records.insert(path, Record { cid: *cid, value });
            }
            Change::Delete => {
                account.records.remove(&path);
            }
            Change::Broken { reason, .. } | Change::Missing { reason, .. } => {
                panic!("{path}: {reason}")
            }
        }
    }
}

/// The state without unwanted records.
fn wanted(state: NetworkState) -> NetworkState {
    let only_wanted = |(did, mut account): (String, Account)| {
        account.records = account
            .records
            .into_iter()
            .filter(|(path, _)| path.starts_with("com.huddle."))
            .collect::<BTreeMap<_, _>>();
        (did, account)
    };
    state.into_iter().map(only_wanted).collect()
}
