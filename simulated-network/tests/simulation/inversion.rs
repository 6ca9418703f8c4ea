//! The blocks of a commit are enough to undo its operations, which gives the tree before it.

use std::collections::BTreeMap;

use cid::Cid;
use ipld_core::ipld::Ipld;
use simulated_network::car::{Blocks, address_of, encode};
use simulated_network::mst::{common_prefix, depth};
use simulated_network::network::Network;
use simulated_network::shape::Shape;

use crate::parsed_frames::{car, data_of, parse};

/// A part of a partially known tree, in the order of the keys.
#[derive(Clone, Debug)]
enum Item {
    Leaf {
        key: String,
        value: Cid,
    },
    /// A subtree whose nodes are not among the blocks.
    Stub {
        root: Cid,
        layer: u32,
    },
}

#[test]
fn operations_are_undone_from_the_blocks_of_their_commit_alone() {
    let mut inverted = 0;
    for seed in 0..4 {
        let shape = Shape {
            accounts: 3,
            ..Shape::default()
        };
        let mut network = Network::new(seed, shape);
        for entry in network.steps(400) {
            let (t, payload) = parse(entry);
            if t == "#commit" {
                inverted += usize::from(inverts(&payload));
            }
        }
    }
    assert!(inverted > 500, "only {inverted}");
}

/// Undoes one commit; false if it is a repository's first.
fn inverts(payload: &BTreeMap<String, Ipld>) -> bool {
    let Some(Ipld::Link(prev_data)) = payload.get("prevData") else {
        return false;
    };
    let (commit, blocks) = car(payload);
    let data = data_of(&blocks[&commit]);
    let mut items = Vec::new();
    flatten(&blocks, data, None, &mut items);
    assert_eq!(rebuild(&items), data);

    let Ipld::List(ops) = &payload["ops"] else {
        panic!("ops are a list");
    };
    for op in ops.iter().rev() {
        undo(op, &mut items);
    }
    assert_eq!(rebuild(&items), *prev_data);
    true
}

fn undo(op: &Ipld, items: &mut Vec<Item>) {
    let Ok(Some(Ipld::String(path))) = op.get("path") else {
        panic!("an op has a path");
    };
    let index = items
        .iter()
        .position(|item| matches!(item, Item::Leaf { key, .. } if key >= path))
        .unwrap_or(items.len());
    let is_there = matches!(items.get(index), Some(Item::Leaf { key, .. }) if key == path);
    if is_there {
        items.remove(index);
    }
    match op.get("prev").unwrap() {
        Some(&Ipld::Link(value)) => {
            // A stub here would have to be split, which is impossible without its nodes.
            let before = index.checked_sub(1).map(|before| &items[before]);
            assert!(is_there || !matches!(before, Some(Item::Stub { .. })));
            let key = path.clone();
            items.insert(index, Item::Leaf { key, value });
        }
        _ => assert!(is_there, "{path} was created"),
    }
}

/// Appends the parts below the node `cid`. The keys of the root decide its layer.
fn flatten(blocks: &Blocks, cid: Cid, layer: Option<u32>, items: &mut Vec<Item>) {
    let Some(block) = blocks.get(&cid) else {
        let Some(layer) = layer else {
            panic!("the root is missing");
        };
        items.push(Item::Stub { root: cid, layer });
        return;
    };
    let node: Ipld = serde_ipld_dagcbor::from_slice(block).unwrap();
    let Some(Ipld::List(entries)) = node.get("e").unwrap() else {
        panic!("a node has entries");
    };
    let mut below = layer.and_then(|layer| layer.checked_sub(1));
    let mut key = Vec::new();
    let left = node.get("l").unwrap().cloned();
    let mut first = left;
    for entry in entries {
        let field = |name| entry.get(name).unwrap().cloned().unwrap();
        let (Ipld::Integer(shared), Ipld::Bytes(rest), Ipld::Link(value)) =
            (field("p"), field("k"), field("v"))
        else {
            panic!("an entry has a key and a value");
        };
        key.truncate(usize::try_from(shared).unwrap());
        key.extend(rest);
        let key = String::from_utf8(key.clone()).unwrap();
        below = depth(&key).checked_sub(1);
        if let Some(Ipld::Link(left)) = first.take() {
            flatten(blocks, left, below, items);
        }
        items.push(Item::Leaf { key, value });
        if let Ipld::Link(right) = field("t") {
            flatten(blocks, right, below, items);
        }
    }
    if let Some(Ipld::Link(left)) = first {
        flatten(blocks, left, below, items);
    }
}

fn rebuild(items: &[Item]) -> Cid {
    let layers = items.iter().map(|item| match item {
        Item::Leaf { key, .. } => depth(key),
        Item::Stub { layer, .. } => *layer,
    });
    build(items, layers.max().unwrap_or(0))
}

fn build(items: &[Item], layer: u32) -> Cid {
    if let [Item::Stub { root, layer: own }] = items
        && *own == layer
    {
        return *root;
    }
    let mut runs = vec![Vec::new()];
    let mut leaves = Vec::new();
    for item in items {
        match item {
            Item::Leaf { key, value } if depth(key) == layer => {
                leaves.push((key, *value));
                runs.push(Vec::new());
            }
            // It would have to be joined, which is impossible without its nodes.
            Item::Stub { layer: own, .. } => assert!(*own < layer, "a node is missing"),
            Item::Leaf { .. } => {}
        }
        if !matches!(item, Item::Leaf { key, .. } if depth(key) == layer) {
            runs.last_mut().unwrap().push(item.clone());
        }
    }
    let mut links = runs.iter().map(|run| match run.as_slice() {
        [] => Ipld::Null,
        run => Ipld::Link(build(run, layer - 1)),
    });
    let left = links.next().unwrap();
    let mut previous = "";
    let mut entries = Vec::new();
    for ((key, value), right) in leaves.into_iter().zip(links) {
        let shared = common_prefix(previous, key);
        entries.push(Ipld::Map(BTreeMap::from([
            ("p".to_owned(), Ipld::Integer(shared as i128)),
            (
                "k".to_owned(),
                Ipld::Bytes(key.as_bytes()[shared..].to_vec()),
            ),
            ("v".to_owned(), Ipld::Link(value)),
            ("t".to_owned(), right),
        ])));
        previous = key;
    }
    let node = BTreeMap::from([
        ("l".to_owned(), left),
        ("e".to_owned(), Ipld::List(entries)),
    ]);
    address_of(&encode(&Ipld::Map(node)))
}
