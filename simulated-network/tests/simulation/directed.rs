//! Actions that a test chooses are as consistent as random ones.

use ipld_core::ipld::Ipld;
use simulated_network::account::Status;
use simulated_network::network::Network;
use simulated_network::record::SLOT_OFFER;
use simulated_network::repo::is_signed_by;
use simulated_network::shape::Shape;

use crate::parsed_frames::{car, parse, text};

fn network() -> Network {
    Network::new(1, Shape::default())
}

fn path(rkey: &str) -> String {
    format!("{SLOT_OFFER}/{rkey}")
}

/// Whether the commit block of the newest message is signed by the first account.
fn is_signed(network: &Network) -> bool {
    let (_, payload) = parse(network.log().last().unwrap());
    let (root, blocks) = car(&payload);
    let key = network.accounts()[0].repo.key();
    let commit = match payload.get("commit") {
        Some(Ipld::Link(commit)) => *commit,
        _ => root,
    };
    is_signed_by(&blocks[&commit], &key.public_multibase())
}

#[test]
fn a_write_is_emitted_and_in_the_oracle() {
    let mut network = network();
    let (one, two) = (path("one"), path("two"));
    network.write(0, &[&one, &two], &[]);
    network.write(0, &[&one], &[&two]);
    let (t, payload) = parse(network.log().last().unwrap());
    let account = &network.accounts()[0];
    assert_eq!(
        (t.as_str(), text(&payload, "repo")),
        ("#commit", &*account.did)
    );
    assert!(is_signed(&network));
    let state = network.oracle().now();
    let records = &state[&account.did].records;
    assert_eq!(records[&one].cid, account.repo.cid(&one).unwrap());
    assert!(!records.contains_key(&two));
}

#[test]
fn a_forged_commit_has_another_signature_and_changes_nothing() {
    let mut network = network();
    let before = network.oracle().now();
    let head = network.accounts()[0].repo.head().cloned();
    let forged = network.emit_foreign_commit(0, &path("one"));
    assert_eq!(network.log().last().unwrap().frame, forged);
    assert!(!is_signed(&network));
    let forged = network.emit_foreign_sync(0, &path("one"));
    assert_eq!(network.log().last().unwrap().frame, forged);
    assert!(!is_signed(&network));
    network.emit_false_account(0, Status::Deleted);
    assert_eq!(network.oracle().now(), before);
    assert_eq!(network.accounts()[0].repo.head(), head.as_ref());
    assert!(network.accounts()[0].is_active());
}

#[test]
fn a_replaced_key_signs_what_comes_next() {
    let mut network = network();
    network.replace_key(0);
    network.assert_state(0);
    assert!(!is_signed(&network));
    network.write(0, &[&path("one")], &[]);
    assert!(is_signed(&network));
}

#[test]
fn prev_data_is_omitted_if_a_test_requests_it() {
    let mut network = network();
    for omits in [true, false] {
        network.omit_prev_data(omits);
        network.write(0, &[&path("one")], &[]);
        let (_, payload) = parse(network.log().last().unwrap());
        assert_eq!(payload.contains_key("prevData"), !omits);
    }
}
