//! Tests snapshots of repositories that other servers have served. Holds invariant 9.5.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cid::Cid;
use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::mst::{Leaf, Walk};
use huddle_firehose::atproto::signed_commit::SignedCommit;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::repo::snapshot::{Snapshot, Spool};
use serde_json::Value;
use test_support::shared_data::{shared_data, shared_recording};

use super::support::{everything, held, now, spool};

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Whether the server's list of what it holds has this collection.
fn is_listed(collection: &str) -> bool {
    matches!(
        collection,
        "com.huddle.booking" | "com.huddle.bookingRequest" | "com.huddle.slotOffer"
    )
}

/// The records that the server has reported.
fn expected(oracle: &Value, did: &Did) -> BTreeMap<String, Cid> {
    let records = oracle["records"].as_array().unwrap().iter();
    let of_repo = records.filter_map(|record| {
        let (at, path) = record["uri"]
            .as_str()?
            .strip_prefix("at://")?
            .split_once('/')?;
        let cid = record["cid"].as_str()?.parse().unwrap();
        (at == did.as_str()).then(|| (path.to_owned(), cid))
    });
    of_repo.collect()
}

#[tokio::test]
async fn repositories_of_the_reference_server_verify_and_hold_what_it_reports() {
    let Some(folder) = shared_recording("small-repos") else {
        return;
    };
    let documents = read_json(&folder.with_file_name("small-did-docs.json"));
    let oracle = read_json(&folder.with_file_name("small-oracle.json"));
    let answers = read_json(&folder.with_file_name("small-sync-answers.json"));
    let (mut repos, mut records) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let did = path
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('_', ":");
        let did = Did::parse(&did).unwrap();
        let method = &documents[did.as_str()]["verificationMethod"][0];
        let key = method["publicKeyMultibase"].as_str().unwrap();
        let key: VerifyingKey = key.parse().unwrap();
        let spool = Arc::new(spool(&fs::read(path).unwrap()).await.unwrap());
        let snapshot = Snapshot::verify(&spool, &did, &key, now(), everything).unwrap();
        let latest = &answers[did.as_str()]["getLatestCommit"]["body"];
        assert_eq!(latest["cid"], snapshot.cid.to_string());
        assert_eq!(latest["rev"], snapshot.commit.rev.as_str());
        let expected = expected(&oracle, &did);
        records += expected.len();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(held(&snapshot, is_listed), expected);
        repos += 1;
    }
    assert!(
        repos > 10 && records > 100,
        "{repos} with {records} records"
    );
}

/// The records in the tree. The keys of these accounts were not recorded.
fn walk(spool: &Spool) -> BTreeMap<String, Cid> {
    let commit = spool.get(spool.root()).unwrap().unwrap();
    let commit = SignedCommit::decode(&commit).unwrap();
    let leaves = Walk::new(commit.data, |cid| spool.get(cid)).map(|leaf| {
        let Leaf { key, value } = leaf.unwrap();
        assert!(spool.contains(&value).unwrap());
        (String::from_utf8(key.to_vec()).unwrap(), value)
    });
    leaves.collect()
}

#[tokio::test]
async fn example_repositories_of_other_projects_are_whole() {
    let Some(folder) = shared_data("cars") else {
        return;
    };
    for (name, records) in [
        ("atmos-greenground.car", 2),
        ("repo-stream-empty.car", 0),
        ("repo-stream-little.car", 278),
        ("repo-stream-tiny.car", 8),
        ("repo.car", 23),
        ("rsky-valid_repo.car", 6),
    ] {
        let spool = spool(&fs::read(folder.join(name)).unwrap()).await.unwrap();
        assert_eq!(walk(&spool).len(), records, "{name}");
    }
    let spool = spool(&fs::read(folder.join("repo.car")).unwrap())
        .await
        .unwrap();
    let expected = fs::read_to_string(folder.join("car_expected_records.tsv")).unwrap();
    let lines = expected.lines().map(|line| {
        let (path, cid) = line.split_once('\t').unwrap();
        (path.to_owned(), cid.parse().unwrap())
    });
    assert_eq!(walk(&spool), lines.collect());
}
