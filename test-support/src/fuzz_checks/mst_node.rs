//! The tree of a repository: a node has only one encoding, and a proof is never wrong.

use std::collections::{BTreeMap, BTreeSet};

use cid::Cid;
use huddle_firehose::atproto::car;
use huddle_firehose::atproto::mst::{Node, Presence, find, layer_of};
use ipld_core::{ipld, ipld::Ipld};
use simulated_network::car::{Blocks, address_of, encode, write_car};
use simulated_network::mst::Tree;

/// More keys would only make it slow.
const MAX_KEYS: usize = 64;
/// The length of a long path.
const MAX_KEY: usize = 64;

/// The input is used in three ways: as the block of a node, as the keys of a valid tree, and as a
/// script for an invalid tree.
pub fn check(input: &[u8]) {
    check_node(input);
    check_honest_tree(input);
    check_dishonest_tree(input);
}

/// A node can be encoded in one way only, and its keys ascend.
fn check_node(block: &[u8]) {
    let node = match Node::decode(block) {
        Ok(node) => node,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let entries: Vec<RawEntry<'_>> = node
        .entries
        .iter()
        .map(|entry| (&*entry.key, entry.value, entry.right))
        .collect();
    assert_eq!(encode_node(node.left, &entries), block);
    assert!(node.entries.is_sorted_by(|one, next| one.key < next.key));
    let layers: BTreeSet<u32> = node
        .entries
        .iter()
        .map(|entry| layer_of(&entry.key))
        .collect();
    assert_eq!(
        layers.into_iter().collect::<Vec<_>>(),
        Vec::from_iter(node.layer())
    );
}

/// A key, its value, and the subtree to its right.
type RawEntry<'a> = (&'a [u8], Cid, Option<Cid>);

/// The leftmost subtree, and the entries.
type RawNode<'a> = (Option<Cid>, Vec<RawEntry<'a>>);

fn encode_node(left: Option<Cid>, entries: &[RawEntry<'_>]) -> Vec<u8> {
    let link = |cid: Option<Cid>| cid.map_or(Ipld::Null, Ipld::Link);
    let mut previous: &[u8] = &[];
    let entries: Vec<Ipld> = entries
        .iter()
        .map(|&(key, value, right)| {
            let pairs = previous.iter().zip(key);
            let shared = pairs.take_while(|(left, right)| left == right).count();
            previous = key;
            ipld!({
                "p": shared as u64,
                "k": Ipld::Bytes(key[shared..].to_vec()),
                "v": Ipld::Link(value),
                "t": link(right),
            })
        })
        .collect();
    encode(&ipld!({ "l": link(left), "e": entries }))
}

/// The first line is the damage, the second the key to look up; the others are the keys of the
/// tree.
fn check_honest_tree(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut lines = text.split('\n');
    let (damage, sought) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let values: BTreeMap<String, Cid> = lines
        .filter(|key| (1..=MAX_KEY).contains(&key.len()))
        .take(MAX_KEYS)
        .map(|key| (key.to_owned(), address_of(key.as_bytes())))
        .collect();
    let tree = Tree::build(&values);
    let truth = values
        .get(sought)
        .map_or(Presence::Absent, |value| Presence::Present(*value));

    let mut path = Blocks::new();
    tree.add_path(sought, &mut path);
    for blocks in [&path, &tree.blocks()] {
        assert_eq!(prove(tree.root, blocks, sought.as_bytes()), Some(truth));
    }
    let damaged = prove(
        tree.root,
        &damaged(path, damage.as_bytes()),
        sought.as_bytes(),
    );
    assert!(damaged.is_none_or(|proven| proven == truth), "{damaged:?}");
}

/// The nodes without one of them, or with one bit flipped.
fn damaged(mut nodes: Blocks, damage: &[u8]) -> Blocks {
    let &[node, byte, ..] = damage else {
        nodes.pop_first();
        return nodes;
    };
    let index = usize::from(node) % nodes.len();
    let Some(block) = nodes.values_mut().nth(index) else {
        return nodes;
    };
    let index = usize::from(byte) % block.len();
    block[index] ^= 1 << (byte & 7);
    nodes
}

fn prove(root: Cid, blocks: &Blocks, key: &[u8]) -> Option<Presence> {
    let blocks = car::Blocks::read_all(&write_car(root, blocks)).expect("a CAR");
    find(&blocks, root, key).ok()
}

/// Nodes with correct hashes and any contents, as a malicious account could sign them. Each node
/// may link to earlier ones; the last one is the root.
fn check_dishonest_tree(script: &[u8]) {
    let mut blocks = Blocks::new();
    let mut nodes: Vec<Cid> = Vec::new();
    let mut keys: Vec<&[u8]> = Vec::new();
    let mut rest = script;
    while let Some(((left, entries), behind)) = read_node(rest, &nodes) {
        rest = behind;
        keys.extend(entries.iter().map(|entry| entry.0));
        let block = encode_node(left, &entries);
        nodes.push(address_of(&block));
        blocks.insert(address_of(&block), block);
        if keys.len() > MAX_KEYS || nodes.len() > MAX_KEYS {
            break;
        }
    }
    let Some(&root) = nodes.last() else {
        return;
    };
    let blocks = car::Blocks::read_all(&write_car(root, &blocks)).expect("a CAR");
    for key in keys {
        match find(&blocks, root, key) {
            Ok(Presence::Absent) => {}
            Ok(Presence::Present(value)) => assert_eq!(value, address_of(key)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// A left subtree and entries. The script has a byte with the number of entries and one that
/// selects the subtree; for each entry it has one that selects its subtree, one for the length of
/// the key, and the key.
fn read_node<'a>(script: &'a [u8], nodes: &[Cid]) -> Option<(RawNode<'a>, &'a [u8])> {
    let chosen = |choice: u8| nodes.get(usize::from(choice)).copied();
    let (&[count, left], mut rest) = script.split_first_chunk()?;
    let mut entries = Vec::new();
    for _ in 0..count % 5 {
        let (&[right, length], behind) = rest.split_first_chunk()?;
        let (key, behind) = behind.split_at_checked(usize::from(length % 16))?;
        entries.push((key, address_of(key), chosen(right)));
        rest = behind;
    }
    Some(((chosen(left), entries), rest))
}
