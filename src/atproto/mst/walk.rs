//! Walks a whole tree from its first key to its last.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use super::node_ref::{NodeRef, Opened, ProofError, ProofFault};

/// The most bytes of the nodes between the root and a key. The largest node takes less.
const MAX_PATH_BYTES: usize = 3 << 20;

/// Iterates over the keys and values of a tree in ascending order. Each node is checked against its
/// CID, its layer and its key range. A walk that ends without an error has therefore returned the
/// complete contents of the only tree with this root. After an error the iterator ends.
///
/// It keeps the nodes between the root and the next key in memory, at most 129. A node with entries
/// is read only once, because no two positions in a tree can hold the same key.
pub struct Walk<F> {
    read: F,
    /// A subtree to walk before the rest of the path.
    next: Option<NodeRef>,
    path: Vec<PathNode>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub key: Arc<[u8]>,
    pub value: Cid,
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError<E> {
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A block could not be read. This says nothing about the tree.
    #[error("cannot read a block: {0}")]
    Read(E),
}

/// A node on the path.
struct PathNode {
    opened: Opened,
    /// The next entry to return. The subtree before it has been walked.
    entry: usize,
    /// The bytes that this node and those above it take.
    memory: usize,
}

impl<F, E> Walk<F>
where
    F: Fn(&Cid) -> Result<Option<Bytes>, E>,
{
    /// Starts a walk at the root. `read` returns the block of a node, or `None` if there is no such
    /// block. It need not check the hash of the block.
    pub fn new(root: Cid, read: F) -> Self {
        Self {
            read,
            next: Some(NodeRef::root(root)),
            path: Vec::new(),
        }
    }

    fn advance(&mut self) -> Result<Option<Leaf>, WalkError<E>> {
        loop {
            while let Some(node_ref) = self.next.take() {
                let cid = node_ref.cid;
                let block = (self.read)(&cid).map_err(WalkError::Read)?;
                let opened = node_ref.open_block(block.as_deref())?;
                let above = self.path.last().map_or(0, |above| above.memory);
                let memory = above + opened.node.memory();
                if memory > MAX_PATH_BYTES {
                    let limit = MAX_PATH_BYTES;
                    return Err(ProofError::new(cid, ProofFault::Memory { limit }).into());
                }
                self.next = opened.gap(0)?;
                self.path.push(PathNode {
                    opened,
                    entry: 0,
                    memory,
                });
            }
            let Some(current) = self.path.last_mut() else {
                return Ok(None);
            };
            if let Some(entry) = current.opened.node.entries.get(current.entry) {
                let leaf = Leaf {
                    key: entry.key.clone(),
                    value: entry.value,
                };
                current.entry += 1;
                self.next = current.opened.gap(current.entry)?;
                return Ok(Some(leaf));
            }
            self.path.pop();
        }
    }
}

impl<F, E> Iterator for Walk<F>
where
    F: Fn(&Cid) -> Result<Option<Bytes>, E>,
{
    type Item = Result<Leaf, WalkError<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        let advanced = self.advance();
        if advanced.is_err() {
            self.next = None;
            self.path.clear();
        }
        advanced.transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use simulated_network::car::{Blocks as Built, address_of};
    use simulated_network::mst::Tree;

    use super::*;
    use crate::atproto::mst::{Entry, Node, ProofFault, empty_root, layer_of};

    type Values = BTreeMap<String, Cid>;
    type Walked = Result<Values, WalkError<Infallible>>;

    fn tree(count: usize) -> (Tree, Values) {
        let keys = (0..count).map(|n| format!("com.huddle.booking/{n:04}"));
        let values: Values = keys
            .map(|key| (key.clone(), address_of(key.as_bytes())))
            .collect();
        (Tree::build(&values), values)
    }

    fn walk(root: Cid, built: &Built) -> Walked {
        let read = |cid: &Cid| Ok(built.get(cid).map(|block| Bytes::from(block.clone())));
        let mut previous = None;
        let mut walked = Values::new();
        for leaf in Walk::new(root, read) {
            let Leaf { key, value } = leaf?;
            assert!(previous < Some(key.clone()));
            walked.insert(String::from_utf8(key.to_vec()).unwrap(), value);
            previous = Some(key);
        }
        Ok(walked)
    }

    fn fault(walked: Walked) -> (Cid, ProofFault) {
        match walked {
            Err(WalkError::Proof(error)) => (*error.node, error.fault),
            other => panic!("{other:?}"),
        }
    }

    /// A key of this layer that begins with `prefix`.
    fn key_of(layer: u32, prefix: &str) -> String {
        (0..)
            .map(|n| format!("{prefix}/{n}"))
            .find(|key| layer_of(key.as_bytes()) == layer)
            .unwrap()
    }

    /// A node with one entry.
    fn node(built: &mut Built, left: Option<Cid>, key: &str, right: Option<Cid>) -> Cid {
        let entry = Entry {
            key: key.as_bytes().into(),
            value: address_of(key.as_bytes()),
            right,
        };
        add(built, &Node::new(0, left, vec![entry]))
    }

    fn add(built: &mut Built, node: &Node) -> Cid {
        let block = node.encode();
        let cid = address_of(&block);
        built.insert(cid, block);
        cid
    }

    #[test]
    fn every_key_comes_once_and_in_order() {
        for count in [0, 1, 2, 300] {
            let (tree, values) = tree(count);
            assert_eq!(walk(tree.root, &tree.blocks()).unwrap(), values);
        }
    }

    /// Holds invariant 4.10.
    #[test]
    fn nodes_that_expand_far_are_not_kept_in_any_number() {
        let mut built = Built::new();
        // Two keys that share a megabyte, which the block holds once.
        let mut pair = |layer, letter: &str, left| {
            let prefix = letter.repeat(1_000_000);
            let keys = (0..2).map(|n| format!("{prefix}/{n}-"));
            let mut keys: Vec<String> = keys.map(|prefix| key_of(layer, &prefix)).collect();
            keys.sort_unstable();
            let entries = keys.iter().map(|key| Entry {
                key: key.as_bytes().into(),
                value: address_of(b"value"),
                right: None,
            });
            add(&mut built, &Node::new(layer, left, entries.collect()))
        };
        let below = pair(0, "a", None);
        let root = pair(1, "b", Some(below));
        assert_eq!(
            fault(walk(root, &built)),
            (
                below,
                ProofFault::Memory {
                    limit: MAX_PATH_BYTES
                }
            )
        );
    }

    #[test]
    fn every_node_is_needed() {
        let (tree, _) = tree(100);
        let blocks = tree.blocks();
        assert!(blocks.len() > 10);
        for cid in blocks.keys() {
            let mut without = blocks.clone();
            without.remove(cid);
            let missed = fault(walk(tree.root, &without));
            assert_eq!(missed, (*cid, ProofFault::Missing));
        }
    }

    #[test]
    fn a_changed_node_is_refused() {
        let (tree, _) = tree(100);
        for cid in tree.blocks().keys() {
            let mut blocks = tree.blocks();
            blocks.insert(*cid, Node::new(0, None, Vec::new()).encode());
            let changed = fault(walk(tree.root, &blocks));
            assert_eq!(changed, (*cid, ProofFault::Address));
        }
    }

    #[test]
    fn only_an_empty_tree_has_a_node_without_entries_and_subtree() {
        let mut built = Built::new();
        let nothing = add(&mut built, &Node::new(0, None, Vec::new()));
        assert_eq!(nothing, empty_root());
        assert!(walk(nothing, &built).unwrap().is_empty());

        let root = node(&mut built, None, &key_of(1, "a"), Some(nothing));
        assert_eq!(fault(walk(root, &built)), (nothing, ProofFault::Empty));

        let leaf = node(&mut built, None, &key_of(0, "a"), None);
        let top = add(&mut built, &Node::new(0, Some(leaf), Vec::new()));
        assert_eq!(fault(walk(top, &built)), (top, ProofFault::Empty));
    }

    #[test]
    fn each_level_down_is_one_layer() {
        for (upper, lower) in [(2, 0), (1, 1), (1, 2)] {
            let mut built = Built::new();
            let below = node(&mut built, None, &key_of(lower, "b"), None);
            let root = node(&mut built, None, &key_of(upper, "a"), Some(below));
            let (expected, found) = (upper - 1, lower);
            let layer = ProofFault::Layer { expected, found };
            assert_eq!(fault(walk(root, &built)), (below, layer));
        }
        let mut built = Built::new();
        let below = node(&mut built, None, &key_of(0, "b"), None);
        let root = node(&mut built, None, &key_of(0, "a"), Some(below));
        assert_eq!(fault(walk(root, &built)), (below, ProofFault::TooDeep));
    }

    #[test]
    fn keys_ascend_over_the_whole_tree() {
        let (middle, other) = (key_of(2, "m"), key_of(1, "n"));
        for (key, is_left) in [("z", true), ("a", false)] {
            let mut built = Built::new();
            let leaf = node(&mut built, None, &key_of(0, key), None);
            let between = add(&mut built, &Node::new(1, Some(leaf), Vec::new()));
            let root = match is_left {
                true => node(&mut built, Some(between), &middle, None),
                false => node(&mut built, None, &middle, Some(between)),
            };
            assert_eq!(fault(walk(root, &built)), (leaf, ProofFault::Order));
        }
        // Greater than the root's key, and less than the one beside it.
        let mut built = Built::new();
        let leaf = node(&mut built, None, &key_of(0, "mm"), None);
        let beside = node(&mut built, None, &other, Some(leaf));
        let root = node(&mut built, None, &middle, Some(beside));
        assert_eq!(fault(walk(root, &built)), (leaf, ProofFault::Order));
    }

    #[test]
    fn a_subtree_cannot_occur_twice() {
        let mut built = Built::new();
        let shared = node(&mut built, None, &key_of(0, "b"), None);
        let root = node(&mut built, Some(shared), &key_of(1, "c"), Some(shared));
        assert_eq!(fault(walk(root, &built)), (shared, ProofFault::Order));
    }

    #[test]
    fn a_read_error_ends_the_walk() {
        let (tree, _) = tree(100);
        let mut blocks = tree.blocks();
        let lost = *blocks.keys().find(|cid| **cid != tree.root).unwrap();
        let read = |cid: &Cid| match *cid == lost {
            true => Err("the disk is gone"),
            false => Ok(blocks.get(cid).map(|block| Bytes::from(block.clone()))),
        };
        let mut walk = Walk::new(tree.root, read);
        let error = walk.find_map(Result::err).unwrap();
        assert!(matches!(error, WalkError::Read("the disk is gone")));
        assert!(walk.next().is_none());

        blocks.remove(&lost);
        let read = |cid: &Cid| {
            let block = blocks.get(cid).map(|block| Bytes::from(block.clone()));
            Ok::<_, Infallible>(block)
        };
        let mut walk = Walk::new(tree.root, read);
        assert!(walk.any(|leaf| leaf.is_err()));
        assert!(walk.next().is_none());
    }
}
