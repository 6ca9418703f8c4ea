//! Tests what a repository must prove before it is accepted. Holds invariants 9.4 and 9.5.

use std::sync::Arc;

use cid::Cid;
use cid::multihash::Multihash;
use fastrand::Rng;
use huddle_firehose::atproto::mst::{ProofFault, layer_of};
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::repo::snapshot::{Snapshot, SnapshotError};
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use jiff::SignedDuration;
use simulated_network::car::{address_of, encode};
use simulated_network::key::SigningKey;
use simulated_network::mst::Tree;
use simulated_network::record::SLOT_OFFER;

use super::support::{Repo, everything, held, now, spool, write};

/// The short name of the error in the commit.
async fn refused(repo: &Repo) -> &'static str {
    match repo.verify().await.unwrap_err() {
        SnapshotError::Commit(error) => error.name(),
        other => panic!("{other}"),
    }
}

fn fault(refused: Result<Snapshot, SnapshotError>) -> (Cid, ProofFault) {
    match refused.unwrap_err() {
        SnapshotError::Tree(error) => (*error.node, error.fault),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_order_of_blocks_does_not_matter() {
    let repo = Repo::large();
    let expected = held(&repo.verify().await.unwrap(), everything);
    for seed in 0..10 {
        let mut sections = repo.sections();
        sections.extend_from_within(..sections.len() / 2);
        Rng::with_seed(seed).shuffle(&mut sections);
        let spool = Arc::new(spool(&write(&[repo.root], &sections)).await.unwrap());
        let snapshot = Snapshot::verify(&spool, &repo.did, &repo.public(), now(), everything);
        let found = held(&snapshot.unwrap(), everything);
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn every_node_is_needed_and_every_record_missed_wherever_the_car_is_cut() {
    let repo = Repo::large();
    let sections = repo.sections();
    for end in 0..sections.len() {
        let spool = spool(&write(&[repo.root], &sections[..end])).await.unwrap();
        let spool = Arc::new(spool);
        let cut = Snapshot::verify(&spool, &repo.did, &repo.public(), now(), everything);
        assert!(
            cut.is_err() || !cut.unwrap().missing.is_empty(),
            "{end} of {} blocks",
            sections.len()
        );
    }
}

#[tokio::test]
async fn a_missing_node_refuses_the_repository_and_a_missing_record_is_named() {
    let repo = Repo::large();
    let (mut nodes, mut records) = (0, 0);
    for cid in repo.blocks.keys() {
        let mut without = repo.clone();
        without.blocks.remove(cid);
        match without.verify().await {
            Ok(snapshot) => {
                let missing = repo.records.iter().filter(|(_, value)| *value == cid);
                let missing: Vec<(String, Cid)> = missing
                    .map(|(path, value)| (path.clone(), *value))
                    .collect();
                assert!(!missing.is_empty());
                assert_eq!(snapshot.missing, missing);
                assert_eq!(held(&snapshot, everything).len(), repo.records.len());
                records += 1;
            }
            Err(SnapshotError::Commit(error)) => {
                assert_eq!((error.name(), *cid), ("commit_missing", repo.root));
            }
            Err(SnapshotError::Tree(error)) => {
                assert_eq!((*error.node, error.fault), (*cid, ProofFault::Missing));
                nodes += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(nodes + records + 1, repo.blocks.len());
    assert!(nodes > 5 && records > 30, "{nodes} and {records}");
}

#[tokio::test]
async fn a_record_of_any_codec_and_hash_may_be_in_the_tree() {
    let sha_512 = Multihash::wrap(0x13, &[7; 64]).unwrap();
    for other in [
        Cid::new_v1(0x55, *address_of(b"raw").hash()),
        Cid::new_v1(0x71, sha_512),
        Cid::new_v0(*address_of(b"old").hash()).unwrap(),
    ] {
        let mut repo = Repo::holding(&[("com.huddle.a/1", ipld!({}))]);
        repo.records.insert("app.other.b/1".to_owned(), other);
        let tree = Tree::build(&repo.records);
        repo.blocks.extend(tree.blocks());
        repo.sign(tree.root);
        let wants = |collection: &str| collection == "com.huddle.a";
        let snapshot = repo.verify_where(wants).await.unwrap();
        assert_eq!(held(&snapshot, wants).len(), 1);
        assert!(snapshot.missing.is_empty());
        // Where it is wanted, no block can be its record.
        let missing = repo.verify().await.unwrap().missing;
        assert_eq!(missing, [("app.other.b/1".to_owned(), other)]);
    }
}

#[tokio::test]
async fn a_key_that_is_no_path_is_a_key_like_any_other() {
    let mut repo = Repo::holding(&[("com.huddle.a/1", ipld!({}))]);
    let value = repo.add(&ipld!({ "text": "of no path" }));
    let long = "k".repeat(3000);
    for key in ["", "/", "com.huddle.a", "com.huddle.a/b/c", &long] {
        repo.records.insert(key.to_owned(), value);
    }
    let tree = Tree::build(&repo.records);
    repo.blocks.extend(tree.blocks());
    repo.sign(tree.root);
    let snapshot = repo.verify().await.unwrap();
    let paths = held(&snapshot, everything).into_iter();
    assert!(
        paths
            .map(|(path, _)| path)
            .any(|path| path == "com.huddle.a/1")
    );
}

#[tokio::test]
async fn an_unwanted_record_may_be_missing() {
    let mut repo = Repo::large();
    let is_offer = |path: &str| path.starts_with(&format!("{SLOT_OFFER}/"));
    let unwanted = repo.records.iter().find(|(path, _)| !is_offer(path));
    let unwanted = *unwanted.unwrap().1;
    repo.blocks.remove(&unwanted);
    let wants = |collection: &str| collection == SLOT_OFFER;
    assert!(repo.verify_where(wants).await.unwrap().missing.is_empty());
    let missing = repo.verify().await.unwrap().missing;
    assert!(missing.iter().all(|(_, cid)| *cid == unwanted));
    assert!(!missing.is_empty());
}

#[tokio::test]
async fn a_repository_of_another_account_is_refused() {
    let mut repo = Repo::large();
    repo.did = Did::parse("did:plc:mallory").unwrap();
    assert_eq!(refused(&repo).await, "did");
}

#[tokio::test]
async fn only_the_accounts_key_signs() {
    let mut repo = Repo::large();
    let spool = Arc::new(spool(&repo.car()).await.unwrap());
    let right = repo.public();
    repo.key = SigningKey::generate(&mut Rng::with_seed(9));
    assert_eq!(refused(&repo).await, "signature");

    // The same spool can be verified with a newer key, without another transfer.
    let verify = |key| Snapshot::verify(&spool, &repo.did, &key, now(), everything);
    assert!(verify(repo.public()).is_err());
    assert!(verify(right).is_ok());
}

#[tokio::test]
async fn the_higher_s_is_refused() {
    let mut repo = Repo::large();
    let mut commit = repo.commit();
    commit.remove("sig");
    let commit = Ipld::Map(commit);
    let high = repo.key.sign_high(&encode(&commit));
    repo.set_signed(commit, high);
    assert_eq!(refused(&repo).await, "signature_high_s");
}

#[tokio::test]
async fn the_root_must_be_a_commit_of_the_known_version() {
    let mut repo = Repo::large();
    repo.sign_with(|commit| drop(commit.insert("version".to_owned(), Ipld::Integer(2))));
    assert_eq!(refused(&repo).await, "commit_version");
    repo.root = repo.add(&ipld!({ "text": "no commit" }));
    assert_eq!(refused(&repo).await, "commit_block");
}

#[tokio::test]
async fn a_rev_may_be_five_minutes_ahead_and_no_more() {
    let repo = Repo::large();
    let snapshot = repo.verify().await.unwrap();
    let latest = snapshot.commit.rev.timestamp() - SignedDuration::from_mins(5);
    let spool = Arc::new(spool(&repo.car()).await.unwrap());
    let verify = |now| Snapshot::verify(&spool, &repo.did, &repo.public(), now, everything);
    assert!(verify(latest).is_ok());
    let error = verify(latest - SignedDuration::from_micros(1)).unwrap_err();
    assert!(matches!(error, SnapshotError::Commit(error) if error.name() == "rev_future"));
}

/// A key of this layer that begins with `prefix`.
fn key_of(layer: u32, prefix: &str) -> String {
    let mut keys = (0..).map(|n| format!("com.huddle.{prefix}/{n}"));
    keys.find(|key| layer_of(key.as_bytes()) == layer).unwrap()
}

fn add_node(repo: &mut Repo, key: &str, right: Option<Cid>) -> Cid {
    let value = repo.add(&ipld!({}));
    let entry = ipld!({
        "p": 0,
        "k": Ipld::Bytes(key.into()),
        "v": Ipld::Link(value),
        "t": right.map_or(Ipld::Null, Ipld::Link),
    });
    repo.add(&ipld!({ "l": null, "e": [entry] }))
}

#[tokio::test]
async fn a_signed_tree_must_have_the_form_of_the_format() {
    for (lower, prefix, expected) in [
        (0, "b", None),
        (0, "A", Some(ProofFault::Order)),
        (
            1,
            "b",
            Some(ProofFault::Layer {
                expected: 0,
                found: 1,
            }),
        ),
    ] {
        let mut repo = Repo::holding(&[]);
        let below = add_node(&mut repo, &key_of(lower, prefix), None);
        let root = add_node(&mut repo, &key_of(1, "a"), Some(below));
        repo.sign(root);
        let verified = repo.verify().await;
        match expected {
            None => assert_eq!(held(&verified.unwrap(), everything).len(), 2),
            Some(expected) => assert_eq!(fault(verified), (below, expected)),
        }
    }
}

#[tokio::test]
async fn a_tree_without_wanted_records_must_be_whole_too() {
    let mut repo = Repo::large();
    let data = repo.data();
    repo.blocks.remove(&data);
    let nothing = repo.verify_where(|_| false).await;
    assert_eq!(fault(nothing), (data, ProofFault::Missing));
}
