//! Tests nodes and proofs of the Merkle search tree with vectors of the protocol, repositories and
//! commits of production, and trees of the simulated network. Holds invariant 9.4.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cid::Cid;
use huddle_firehose::atproto::car::Blocks;
use huddle_firehose::atproto::mst::{Node, Presence, ProofFault, find, layer_of};
use ipld_core::ipld::Ipld;
use serde::Deserialize;
use serde_ipld_dagcbor::de::from_reader_once;
use simulated_network::car::{self, write_car};
use simulated_network::mst::Tree;
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::shared_data::shared_data;

/// The fields of a `#commit` that describe the tree.
#[derive(Deserialize)]
struct Commit {
    commit: Cid,
    #[serde(with = "serde_bytes")]
    blocks: Vec<u8>,
    ops: Vec<Op>,
}

#[derive(Deserialize)]
struct Op {
    path: String,
    cid: Option<Cid>,
}

fn blocks_of(tree: &Tree) -> Blocks {
    Blocks::read_all(&write_car(tree.root, &tree.blocks())).unwrap()
}

/// The MST root that a commit block names.
fn data_of(blocks: &Blocks, commit: &Cid) -> Cid {
    #[derive(Deserialize)]
    struct CommitBlock {
        data: Cid,
    }
    let block = blocks.get(commit).unwrap();
    serde_ipld_dagcbor::from_slice::<CommitBlock>(block)
        .unwrap()
        .data
}

/// `None` if a frame is not a commit.
fn commit_of(mut frame: &[u8]) -> Option<Commit> {
    let header: Ipld = from_reader_once(&mut frame).unwrap();
    let is_commit = header
        .get("t")
        .is_ok_and(|t| t == Some(&Ipld::from("#commit")));
    is_commit.then(|| serde_ipld_dagcbor::from_slice(frame).unwrap())
}

/// A CID in JSON.
fn cid<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Cid, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// Proves each path of a commit in its tree. Returns the number of paths.
fn assert_proven(commit: &Commit) -> usize {
    let blocks = Blocks::read_all(&commit.blocks).unwrap();
    let root = data_of(&blocks, &commit.commit);
    // Of several operations on one path the last one counts.
    let last: BTreeMap<&str, Option<Cid>> = commit
        .ops
        .iter()
        .map(|op| (op.path.as_str(), op.cid))
        .collect();
    for (path, cid) in &last {
        let expected = cid.map_or(Presence::Absent, Presence::Present);
        assert_eq!(find(&blocks, root, path.as_bytes()), Ok(expected), "{path}");
    }
    last.len()
}

#[test]
fn every_commit_of_a_network_proves_its_operations() {
    for seed in 0..3 {
        let mut network = Network::new(seed, Shape::default());
        network.steps(300);
        let commits = network
            .log()
            .iter()
            .filter_map(|entry| commit_of(&entry.frame));
        let proven: usize = commits.map(|commit| assert_proven(&commit)).sum();
        assert!(proven > 200, "seed {seed}: only {proven} paths");
    }
}

#[test]
fn every_commit_of_production_proves_its_operations() {
    let Some(file) = shared_data("production/frames.bin.zst") else {
        return;
    };
    let bytes = zstd::decode_all(fs::File::open(file).unwrap()).unwrap();
    let mut rest = bytes.as_slice();
    let (mut commits, mut paths) = (0, 0);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        rest = behind;
        if let Some(commit) = commit_of(frame) {
            commits += 1;
            paths += assert_proven(&commit);
        }
    }
    assert_eq!(commits, 148);
    assert!(paths >= commits);
}

#[test]
fn layers_are_those_of_the_protocol() {
    #[derive(Deserialize)]
    struct Case {
        key: String,
        height: u32,
    }
    let Some(file) = shared_data("interop/mst/key_heights.json") else {
        return;
    };
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for Case { key, height } in cases {
        assert_eq!(layer_of(key.as_bytes()), height, "{key}");
    }
}

#[test]
fn the_example_keys_are_found_and_their_neighbours_are_not() {
    let Some(file) = shared_data("interop/mst/example_keys.txt") else {
        return;
    };
    let value: Cid = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"
        .parse()
        .unwrap();
    let text = fs::read_to_string(file).unwrap();
    // Every other key is in the tree.
    let keys: Vec<&str> = text.lines().collect();
    let values = keys.iter().step_by(2).map(|key| ((*key).to_owned(), value));
    let tree = Tree::build(&values.collect());
    let blocks = blocks_of(&tree);
    assert!(keys.len() > 100);
    for (index, key) in keys.iter().enumerate() {
        let expected = match index % 2 {
            0 => Presence::Present(value),
            _ => Presence::Absent,
        };
        assert_eq!(
            find(&blocks, tree.root, key.as_bytes()),
            Ok(expected),
            "{key}"
        );
    }
}

#[test]
fn every_block_of_a_commit_proof_is_needed_and_together_they_are_enough() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fixture {
        comment: String,
        #[serde(deserialize_with = "cid")]
        leaf_value: Cid,
        keys: Vec<String>,
        adds: Vec<String>,
        dels: Vec<String>,
        #[serde(deserialize_with = "cid")]
        root_before_commit: Cid,
        #[serde(deserialize_with = "cid")]
        root_after_commit: Cid,
        blocks_in_proof: BTreeSet<String>,
    }
    let Some(file) = shared_data("interop/firehose/commit-proof-fixtures.json") else {
        return;
    };
    let fixtures: Vec<Fixture> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(fixtures.len(), 6);
    for fixture in fixtures {
        let value = fixture.leaf_value;
        let mut values: BTreeMap<String, Cid> = fixture
            .keys
            .iter()
            .map(|key| (key.clone(), value))
            .collect();
        assert_eq!(Tree::build(&values).root, fixture.root_before_commit);
        values.extend(fixture.adds.iter().map(|key| (key.clone(), value)));
        values.retain(|key, _| !fixture.dels.contains(key));
        let tree = Tree::build(&values);
        assert_eq!(tree.root, fixture.root_after_commit);

        let mut proof = tree.blocks();
        proof.retain(|cid, _| fixture.blocks_in_proof.contains(&cid.to_string()));
        let expected = (fixture
            .adds
            .iter()
            .map(|key| (key, Presence::Present(value))))
        .chain(fixture.dels.iter().map(|key| (key, Presence::Absent)));
        for (key, presence) in expected {
            let find_in = |nodes: &car::Blocks| {
                let blocks = Blocks::read_all(&write_car(tree.root, nodes)).unwrap();
                find(&blocks, tree.root, key.as_bytes())
            };
            assert_eq!(find_in(&proof), Ok(presence), "{}: {key}", fixture.comment);

            let mut path = car::Blocks::new();
            tree.add_path(key, &mut path);
            for cid in path.keys() {
                let mut without = proof.clone();
                without.remove(cid);
                match find_in(&without) {
                    // The key was found above this node.
                    Ok(found) => assert_eq!(found, presence),
                    Err(error) => {
                        assert_eq!((*error.node, error.fault), (*cid, ProofFault::Missing));
                    }
                }
            }
        }
    }
}

#[test]
fn the_records_of_a_real_repository_are_at_the_paths_of_its_export() {
    let Some(folder) = shared_data("cars") else {
        return;
    };
    let blocks = Blocks::read_all(&fs::read(folder.join("repo.car")).unwrap()).unwrap();
    let root = data_of(&blocks, &blocks.root);
    let expected = fs::read_to_string(folder.join("car_expected_records.tsv")).unwrap();
    let mut records = 0;
    for line in expected.lines() {
        let (path, cid) = line.split_once('\t').unwrap();
        let present = Ok(Presence::Present(cid.parse().unwrap()));
        assert_eq!(find(&blocks, root, path.as_bytes()), present, "{path}");
        let absent = format!("{path}0");
        assert_eq!(find(&blocks, root, absent.as_bytes()), Ok(Presence::Absent));
        records += 1;
    }
    assert!(records > 10, "only {records} records");
}

/// All nodes below `cid`, in the order of their keys.
fn entries_below(blocks: &Blocks, cid: Cid, entries: &mut Vec<(Vec<u8>, Cid)>) {
    let node = Node::decode(blocks.get(&cid).unwrap()).unwrap();
    if let Some(left) = node.left {
        entries_below(blocks, left, entries);
    }
    for entry in node.entries {
        entries.push((entry.key.to_vec(), entry.value));
        if let Some(right) = entry.right {
            entries_below(blocks, right, entries);
        }
    }
}

#[test]
fn every_node_of_real_repositories_is_decoded_and_every_key_proven() {
    let Some(folder) = shared_data("cars") else {
        return;
    };
    let mut repositories = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "car") {
            continue;
        }
        let blocks = Blocks::read_all(&fs::read(&path).unwrap()).unwrap();
        let root = data_of(&blocks, &blocks.root);
        let mut entries = Vec::new();
        entries_below(&blocks, root, &mut entries);
        assert!(entries.is_sorted_by(|one, next| one.0 < next.0));
        for (key, value) in &entries {
            assert_eq!(find(&blocks, root, key), Ok(Presence::Present(*value)));
        }
        repositories += 1;
    }
    assert_eq!(repositories, 6);
}
