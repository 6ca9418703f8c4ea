//! Proofs about one key by a set of nodes.

use cid::Cid;

use super::node_ref::{NodeRef, ProofError};
use crate::atproto::car::Blocks;

/// The value of a key in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The key is not in the tree.
    Absent,
    /// The key is in the tree, with this value.
    Present(Cid),
}

/// Looks up `key` in the tree under `root`, using the nodes in `blocks`: usually the blocks of a
/// commit's CAR, where `root` is the `data` of the commit block. The nodes between the root and the
/// position of the key prove the result. Each of them is checked against its CID, its layer and its
/// key range. Other nodes of the tree need not be present, and nothing is proven about them.
///
/// Each iteration goes down one layer, so there are at most 128, the number of layers below the
/// root's.
///
/// # Errors
/// If a node on the way is missing, does not match its CID, or does not belong at its position.
pub fn find(blocks: &Blocks, root: Cid, key: &[u8]) -> Result<Presence, ProofError> {
    let mut node_ref = NodeRef::root(root);
    loop {
        let opened = node_ref.open(blocks)?;
        let entries = &opened.node.entries;
        let index = entries.partition_point(|entry| *entry.key < *key);
        if let Some(entry) = entries.get(index)
            && *entry.key == *key
        {
            return Ok(Presence::Present(entry.value));
        }
        let Some(below) = opened.gap(index)? else {
            return Ok(Presence::Absent);
        };
        node_ref = below;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipld_core::{ipld, ipld::Ipld};
    use simulated_network::car::{Blocks as Built, address_of, encode, write_car};
    use simulated_network::mst::Tree;

    use super::*;
    use crate::atproto::mst::{NodeError, ProofFault, layer_of};

    fn value(key: &str) -> Cid {
        address_of(key.as_bytes())
    }

    /// A tree over `count` keys.
    fn tree(count: usize) -> (Tree, BTreeMap<String, Cid>) {
        let keys = (0..count).map(|n| format!("com.huddle.booking/{n:04}"));
        let values: BTreeMap<String, Cid> = keys.map(|key| (key.clone(), value(&key))).collect();
        (Tree::build(&values), values)
    }

    fn blocks(root: Cid, built: &Built) -> Blocks {
        Blocks::read_all(&write_car(root, built)).unwrap()
    }

    fn find_in(root: Cid, built: &Built, key: &str) -> Result<Presence, ProofError> {
        find(&blocks(root, built), root, key.as_bytes())
    }

    fn error(node: Cid, fault: ProofFault) -> Result<Presence, ProofError> {
        let node = Box::new(node);
        Err(ProofError { node, fault })
    }

    /// A key of `layer` that begins with `prefix`.
    fn key_of(layer: u32, prefix: &str) -> String {
        (0..)
            .map(|n| format!("{prefix}/{n}"))
            .find(|key| layer_of(key.as_bytes()) == layer)
            .unwrap()
    }

    /// A node with one entry, with no check of the key's layer.
    fn node(built: &mut Built, left: Option<Cid>, entry: Option<(&str, Option<Cid>)>) -> Cid {
        let link = |cid: Option<Cid>| cid.map_or(Ipld::Null, Ipld::Link);
        let entries: Vec<Ipld> = entry
            .into_iter()
            .map(|(key, right)| {
                ipld!({
                    "p": 0,
                    "k": Ipld::Bytes(key.into()),
                    "v": Ipld::Link(value(key)),
                    "t": link(right),
                })
            })
            .collect();
        let block = encode(&ipld!({ "l": link(left), "e": entries }));
        let cid = address_of(&block);
        built.insert(cid, block);
        cid
    }

    #[test]
    fn every_key_is_present_and_no_other() {
        let (tree, values) = tree(300);
        let blocks = blocks(tree.root, &tree.blocks());
        for (key, value) in &values {
            let found = find(&blocks, tree.root, key.as_bytes());
            assert_eq!(found, Ok(Presence::Present(*value)), "{key}");
            for absent in [format!("{key}0"), key[..key.len() - 1].to_owned()] {
                let found = find(&blocks, tree.root, absent.as_bytes());
                assert_eq!(found, Ok(Presence::Absent), "{absent}");
            }
        }
    }

    #[test]
    fn an_empty_tree_has_no_keys() {
        let (tree, _) = tree(0);
        let found = find_in(tree.root, &tree.blocks(), "a/1");
        assert_eq!(found, Ok(Presence::Absent));
    }

    #[test]
    fn the_nodes_on_the_way_are_enough_and_all_of_them_are_needed() {
        let (tree, values) = tree(300);
        for key in values.keys().step_by(17) {
            let mut path = Built::new();
            tree.add_path(key, &mut path);
            assert!(find_in(tree.root, &path, key).is_ok());
            for &cid in path.keys() {
                let mut without = path.clone();
                without.remove(&cid);
                let found = find_in(tree.root, &without, key);
                assert_eq!(found, error(cid, ProofFault::Missing));
            }
        }
    }

    #[test]
    fn a_changed_node_is_refused() {
        let (tree, _) = tree(50);
        let mut built = tree.blocks();
        let root = tree.root;
        *built.get_mut(&root).unwrap() = encode(&ipld!({ "l": null, "e": [] }));
        let found = find_in(root, &built, "com.huddle.booking/0001");
        assert_eq!(found, error(root, ProofFault::Address));
    }

    #[test]
    fn a_block_that_is_not_a_node_is_an_error() {
        let block = encode(&ipld!({ "l": null }));
        let cid = address_of(&block);
        let found = find_in(cid, &Built::from([(cid, block)]), "a/1");
        let fault = ProofFault::Node(NodeError::Missing("e"));
        assert_eq!(found, error(cid, fault));
    }

    #[test]
    fn a_layer_is_neither_skipped_nor_repeated() {
        for (upper, lower) in [(2, 0), (1, 1), (1, 2)] {
            let mut built = Built::new();
            let below = key_of(lower, "b");
            let cid = node(&mut built, None, Some((&below, None)));
            let root = node(&mut built, None, Some((&key_of(upper, "a"), Some(cid))));
            let (expected, found) = (upper - 1, lower);
            let fault = ProofFault::Layer { expected, found };
            assert_eq!(find_in(root, &built, &below), error(cid, fault));
        }
    }

    #[test]
    fn a_key_outside_the_range_of_its_subtree_is_an_error() {
        let mut built = Built::new();
        let (low, middle, high) = (key_of(0, "a"), key_of(2, "m"), key_of(0, "z"));
        let misplaced = node(&mut built, None, Some((&low, None)));
        let between = node(&mut built, Some(misplaced), None);
        let root = node(&mut built, None, Some((&middle, Some(between))));
        let order = error(misplaced, ProofFault::Order);
        assert_eq!(find_in(root, &built, &high), order);

        let misplaced = node(&mut built, None, Some((&high, None)));
        let between = node(&mut built, Some(misplaced), None);
        let root = node(&mut built, Some(between), Some((&middle, None)));
        let order = error(misplaced, ProofFault::Order);
        assert_eq!(find_in(root, &built, &low), order);
    }

    #[test]
    fn a_node_without_entries_only_links_two_layers() {
        let mut built = Built::new();
        let low = key_of(0, "b");
        let leaf = node(&mut built, None, Some((&low, None)));
        let between = node(&mut built, Some(leaf), None);
        let root = node(&mut built, None, Some((&key_of(2, "a"), Some(between))));
        let present = Ok(Presence::Present(value(&low)));
        assert_eq!(find_in(root, &built, &low), present);

        let as_root = find_in(between, &built, &low);
        assert_eq!(as_root, error(between, ProofFault::Empty));

        let nothing = node(&mut built, None, None);
        let root = node(&mut built, None, Some((&key_of(1, "a"), Some(nothing))));
        let found = find_in(root, &built, &low);
        assert_eq!(found, error(nothing, ProofFault::Empty));
    }

    #[test]
    fn there_is_no_layer_below_0() {
        let mut built = Built::new();
        let cid = node(&mut built, None, Some((&key_of(0, "b"), None)));
        let root = node(&mut built, None, Some((&key_of(0, "a"), Some(cid))));
        let found = find_in(root, &built, "c/1");
        assert_eq!(found, error(cid, ProofFault::TooDeep));
    }
}
