//! Tests the tree with vectors and repositories of other implementations.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cid::Cid;
use ipld_core::ipld::Ipld;
use serde_json::Value;
use simulated_network::car::{Blocks, read_car};
use simulated_network::mst::{Tree, common_prefix, depth};

use crate::skipped::skip;

/// A file or folder of the shared data. If it is missing, the test is skipped; CI does not allow
/// this.
fn shared_data(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("HUDDLE_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = folder.join(path);
    if path.exists() {
        return Some(path);
    }
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!is_ci, "{} is missing", path.display());
    skip(&format!("{} is missing", path.display()));
    None
}

fn cases(path: &str) -> Vec<Value> {
    shared_data(path).map_or_else(Vec::new, |path| {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    })
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap()
}

fn cid(value: &Value) -> Cid {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn keys_have_the_depths_of_the_vectors() {
    for case in cases("interop/mst/key_heights.json") {
        let height = case["height"].as_u64().unwrap();
        assert_eq!(u64::from(depth(text(&case, "key"))), height, "{case}");
    }
}

#[test]
fn keys_share_the_prefixes_of_the_vectors() {
    for case in cases("interop/mst/common_prefix.json") {
        let shared = common_prefix(text(&case, "left"), text(&case, "right")) as u64;
        assert_eq!(shared, case["len"].as_u64().unwrap(), "{case}");
    }
}

#[test]
fn roots_are_those_of_the_commit_proof_fixtures_before_and_after() {
    for case in cases("interop/firehose/commit-proof-fixtures.json") {
        let leaf = cid(&case["leafValue"]);
        let keys =
            |field: &str| -> Vec<String> { serde_json::from_value(case[field].clone()).unwrap() };
        let mut values: BTreeMap<String, Cid> =
            keys("keys").into_iter().map(|key| (key, leaf)).collect();
        let before = Tree::build(&values).root;
        assert_eq!(
            before,
            cid(&case["rootBeforeCommit"]),
            "{}",
            case["comment"]
        );

        values.extend(keys("adds").into_iter().map(|key| (key, leaf)));
        values.retain(|key, _| !keys("dels").contains(key));
        let after = Tree::build(&values);
        assert_eq!(
            after.root,
            cid(&case["rootAfterCommit"]),
            "{}",
            case["comment"]
        );

        let proof = proof(&after, &values, keys("adds").iter().chain(&keys("dels")));
        for block in case["blocksInProof"].as_array().unwrap() {
            assert!(
                proof.contains_key(&cid(block)),
                "{}: {block}",
                case["comment"]
            );
        }
    }
}

fn proof<'a>(
    tree: &Tree,
    values: &BTreeMap<String, Cid>,
    paths: impl Iterator<Item = &'a String>,
) -> Blocks {
    let mut blocks = Blocks::new();
    for path in paths {
        let before = values.keys().rfind(|key| *key < path);
        let after = values.keys().find(|key| *key > path);
        for path in before.into_iter().chain([path]).chain(after) {
            tree.add_path(path, &mut blocks);
        }
    }
    blocks
}

#[test]
fn real_repositories_have_the_root_that_is_rebuilt_from_their_records() {
    let mut rebuilt = 0;
    for folder in ["cars", "../testbed/recordings/small-repos"] {
        let Some(folder) = shared_data(folder) else {
            return;
        };
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "car") {
                rebuilt += u32::from(is_rebuilt(&path));
            }
        }
    }
    assert!(rebuilt >= 20, "only {rebuilt} were whole repositories");
}

/// Rebuilds the tree of a CAR file; false if the file is not a whole repository.
fn is_rebuilt(path: &Path) -> bool {
    let (root, blocks) = read_car(&fs::read(path).unwrap()).unwrap();
    let Some(Ipld::Link(data)) = field(&node(&blocks, &root), "data") else {
        return false;
    };
    let mut values = BTreeMap::new();
    if walk(&blocks, &data, &mut values).is_none() {
        eprintln!("{} lacks nodes", path.display());
        return false;
    }
    let tree = Tree::build(&values);
    assert_eq!(tree.root, data, "{}", path.display());
    for (cid, block) in tree.blocks() {
        assert_eq!(blocks.get(&cid), Some(&block), "{}", path.display());
    }
    true
}

fn node(blocks: &Blocks, cid: &Cid) -> Ipld {
    blocks.get(cid).map_or(Ipld::Null, |block| {
        serde_ipld_dagcbor::from_slice(block).unwrap()
    })
}

fn field(node: &Ipld, name: &str) -> Option<Ipld> {
    node.get(name).ok().flatten().cloned()
}

fn walk(blocks: &Blocks, cid: &Cid, values: &mut BTreeMap<String, Cid>) -> Option<()> {
    let node = node(blocks, cid);
    if let Ipld::Link(left) = field(&node, "l")? {
        walk(blocks, &left, values)?;
    }
    let Ipld::List(entries) = field(&node, "e")? else {
        return None;
    };
    let mut key = Vec::new();
    for entry in entries {
        let (Ipld::Integer(shared), Ipld::Bytes(rest), Ipld::Link(value)) = (
            field(&entry, "p")?,
            field(&entry, "k")?,
            field(&entry, "v")?,
        ) else {
            return None;
        };
        key.truncate(usize::try_from(shared).unwrap());
        key.extend(rest);
        values.insert(String::from_utf8(key.clone()).unwrap(), value);
        if let Ipld::Link(right) = field(&entry, "t")? {
            walk(blocks, &right, values)?;
        }
    }
    Some(())
}
