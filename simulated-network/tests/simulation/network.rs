//! The messages of the network are valid, signed, and identical for the same seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;
use ipld_core::ipld::Ipld;
use simulated_network::account::{Account, Status};
use simulated_network::car::{address_of, read_car};
use simulated_network::http::document;
use simulated_network::network::Network;
use simulated_network::oracle::{self, Visibility};
use simulated_network::repo::is_signed_by;
use simulated_network::shape::Shape;

use crate::parsed_frames::{car, data_of, parse, text};

const STEPS: usize = 400;

fn network(seed: u64, shape: Shape) -> Network {
    let mut network = Network::new(seed, shape);
    network.steps(STEPS);
    network
}

fn public_key(account: &Account) -> String {
    let document = document(account, "http://host.test");
    let key = &document["verificationMethod"][0]["publicKeyMultibase"];
    key.as_str().unwrap().to_owned()
}

#[test]
fn the_same_seed_makes_the_same_frames_and_another_seed_makes_others() {
    let frames = |seed| network(seed, Shape::default()).log().to_vec();
    assert_eq!(frames(3), frames(3));
    assert_ne!(frames(3), frames(4));
}

#[test]
fn every_kind_of_message_occurs() {
    let mut counts = BTreeMap::<String, usize>::new();
    for entry in network(1, Shape::default()).log() {
        *counts.entry(parse(entry).0).or_default() += 1;
    }
    for t in [
        "#account",
        "#commit",
        "#identity",
        "#info",
        "#sync",
        "#weather",
    ] {
        assert!(counts.contains_key(t), "no {t} in {counts:?}");
    }
}

#[test]
fn every_status_occurs_and_deleted_accounts_come_back() {
    let mut network = Network::new(5, Shape::default());
    let mut seen = Vec::new();
    let mut have_returned = false;
    let mut before = vec![None; network.accounts().len()];
    for _ in 0..2000 {
        network.step();
        for (account, before) in network.accounts().iter().zip(&mut before) {
            have_returned |= *before == Some(Status::Deleted) && account.is_active();
            seen.extend(account.status);
            *before = account.status;
        }
    }
    assert!(Status::ALL.iter().all(|status| seen.contains(status)));
    assert!(have_returned);
}

#[test]
fn seqs_rise_and_sometimes_skip() {
    let network = network(2, Shape::default());
    let seqs: Vec<u64> = network.log().iter().filter_map(|entry| entry.seq).collect();
    assert!(seqs.is_sorted_by(|before, after| before < after));
    assert!(*seqs.last().unwrap() > seqs.len() as u64);
}

#[test]
fn commits_name_the_commit_before_them_and_bring_whole_blocks() {
    let shape = Shape {
        migrations: 0,
        key_rotations: 0,
        statuses: 0,
        ..Shape::default()
    };
    let network = network(6, shape);
    let mut heads = BTreeMap::<String, (Cid, String)>::new();
    for entry in network.log() {
        let (t, payload) = parse(entry);
        if t != "#commit" {
            continue;
        }
        let (did, rev) = (text(&payload, "repo"), text(&payload, "rev"));
        let (root, blocks) = car(&payload);
        assert_eq!(payload["commit"], Ipld::Link(root));
        assert!(blocks.iter().all(|(cid, block)| *cid == address_of(block)));
        match heads.get(did) {
            None => {
                assert_eq!(payload["since"], Ipld::Null);
                assert!(!payload.contains_key("prevData"));
            }
            Some((data, since)) => {
                assert_eq!(payload["since"], Ipld::String(since.clone()));
                assert_eq!(payload["prevData"], Ipld::Link(*data));
                assert!(since.as_str() < rev);
            }
        }
        let key = public_key(network.account(did).unwrap());
        assert!(is_signed_by(&blocks[&root], &key));
        heads.insert(did.to_owned(), (data_of(&blocks[&root]), rev.to_owned()));
    }
}

#[test]
fn after_a_key_rotation_commits_are_signed_by_the_key_in_the_did_document() {
    let shape = Shape {
        key_rotations: 40,
        ..Shape::default()
    };
    let network = network(7, shape);
    let active = network
        .accounts()
        .iter()
        .filter(|account| account.is_active());
    for account in active {
        let (root, blocks) = read_car(&account.repo.export_car().unwrap()).unwrap();
        assert!(is_signed_by(&blocks[&root], &public_key(account)));
    }
}

#[test]
fn the_oracle_agrees_with_the_repositories() {
    let network = network(8, Shape::default());
    let state = network.oracle().now();
    for account in network.accounts() {
        let known = &state[&account.did];
        assert_eq!(known.status.as_deref(), account.status.map(Status::as_str));
        if account.status == Some(Status::Deleted) {
            assert!(known.records.is_empty());
            continue;
        }
        assert!(
            known
                .records
                .keys()
                .map(String::as_str)
                .eq(account.repo.paths())
        );
        for (path, record) in &known.records {
            assert_eq!(account.repo.cid(path), Some(record.cid));
        }
    }
    assert!(!oracle::records(&state, Visibility::Live).is_empty());
    assert!(!oracle::malformed(&state, Visibility::Live).is_empty());
    assert!(!oracle::near_misses(&state, Visibility::Live).is_empty());
}

#[test]
fn the_oracle_remembers_every_moment() {
    let mut network = Network::new(9, Shape::default());
    let mut moments = Vec::new();
    for _ in 0..200 {
        network.step();
        let seq = network
            .log()
            .iter()
            .filter_map(|entry| entry.seq)
            .next_back();
        moments.push((seq.unwrap(), network.oracle().now()));
    }
    for (seq, state) in moments {
        assert_eq!(network.oracle().at(seq), state, "at {seq}");
    }
}

#[test]
fn after_a_restart_seqs_begin_at_one_and_the_state_stays() {
    let mut network = network(10, Shape::default());
    let state = network.oracle().now();
    network.restart_sequence();
    assert_eq!(network.oracle().at(0), state);
    while network.step().is_empty() {}
    let first = network.log().iter().find_map(|entry| entry.seq);
    assert_eq!(first, Some(1));
}

#[test]
fn an_adversarial_network_mixes_invalid_and_valid_messages() {
    let network = network(11, Shape::adversarial());
    let oracle = network.oracle();
    let (records, frames): (Vec<_>, Vec<_>) = oracle
        .refusals()
        .iter()
        .partition(|refusal| refusal.uri.is_some());
    assert!(records.len() > 10, "{}", records.len());
    assert!(frames.len() > 20, "{}", frames.len());
    for refusal in frames {
        let said = network
            .log()
            .iter()
            .find(|entry| entry.frame == refusal.raw);
        assert_eq!(said.unwrap().seq, Some(refusal.moment.seq));
    }
    assert!(!oracle.lies().is_empty());
    assert!(network.log().iter().any(|entry| entry.is_text));
    let numbered: BTreeSet<_> = entries_with_seq(&network, true).collect();
    assert!(entries_with_seq(&network, false).any(|frame| numbered.contains(frame)));
}

fn entries_with_seq(network: &Network, has_seq: bool) -> impl Iterator<Item = &Bytes> {
    let entries = network.log().iter();
    let entries = entries.filter(move |entry| entry.seq.is_some() == has_seq);
    entries.map(|entry| &entry.frame)
}

#[test]
fn the_stream_alone_lacks_the_changes_of_a_migration() {
    let everything_heard = BTreeSet::new();
    let without = Shape {
        migrations: 0,
        ..Shape::default()
    };
    let oracle = network(12, without).oracle().clone();
    assert_eq!(oracle.in_stream(&everything_heard), oracle.now());
    let oracle = network(12, Shape::default()).oracle().clone();
    assert_ne!(oracle.in_stream(&everything_heard), oracle.now());
}

#[test]
fn a_consumer_that_missed_messages_has_the_state_before_them() {
    let mut network = network(13, Shape::default());
    let expected = network.oracle().in_stream(&BTreeSet::new());
    let before = network.oracle().changes().len();
    network.steps(50);
    let missed = network.oracle().changes()[before..].iter();
    let missed = missed.map(|change| change.moment).collect();
    assert_eq!(network.oracle().in_stream(&missed), expected);
}

#[test]
fn a_false_seq_stands_for_the_last_message_before_its_time() {
    let mut network = network(14, Shape::adversarial());
    network.restart_sequence();
    network.steps(50);
    let oracle = network.oracle();
    for change in oracle.changes() {
        let (moment, time) = (change.moment, Some(change.time));
        assert_eq!(oracle.reached(moment.seq, time), Some(moment));
        assert_eq!(oracle.reached(moment.seq + 1_000_000, time), Some(moment));
    }
    assert_eq!(oracle.reached(7, None), None);
}
