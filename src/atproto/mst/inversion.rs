//! Computes the tree as it was before a commit, from the blocks of the commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use cid::Cid;

use super::node::{Entry, Node, layer_of};
use super::node_ref::{NodeRef, ProofError, ProofFault};
use super::proof::Presence;
use crate::atproto::car::{Blocks, address_of};

/// The most bytes of the nodes that are opened. The nodes of a commit take less unless their keys share
/// nearly all of their bytes.
const MAX_MEMORY: usize = 24 << 20;

/// The values of a tree at some keys, and the same tree with the earlier values at these keys.
///
/// The tree is taken apart into a list of its parts in the order of the keys: leaves, and subtrees
/// that are not opened. The earlier values are put into this list, and the nodes are built again
/// from it. A set of keys and values has exactly one tree. So the order of undoing the operations
/// does not matter, and no node has to be split or joined. To undo a delete, the subtrees around
/// its key are opened on the way to the key. To undo a create, the subtrees on both sides of its
/// key are opened, because they become neighbours.
///
/// A node is opened if a changed key lies below it, or if a neighbouring key disappears. So at most
/// three nodes are opened on each layer for each key. The key ranges of nodes do not overlap, so a
/// node with entries is opened only once. The layers are those of the root's keys and of the
/// restored keys.
#[derive(Debug)]
pub struct Inversion<'b> {
    blocks: &'b Blocks,
    found: Vec<Presence>,
    items: Vec<TreePart>,
    /// The bytes that the nodes take that were opened.
    memory: usize,
}

/// A part of a tree.
#[derive(Debug)]
enum TreePart {
    Leaf {
        key: Arc<[u8]>,
        value: Cid,
        layer: u32,
    },
    Subtree(NodeRef),
}

/// A key, and its value before the commit.
type Before<'a> = (&'a [u8], Option<Cid>);

impl<'b> Inversion<'b> {
    /// Looks up the keys of `before` in the tree under `root`, and puts their earlier values in
    /// place; `None` means that the key was not in the tree.
    ///
    /// # Errors
    /// If a node on the way to a key is missing, does not match its CID, or does not belong at its
    /// position.
    pub fn new(
        blocks: &'b Blocks,
        root: Cid,
        before: &BTreeMap<&str, Option<Cid>>,
    ) -> Result<Self, ProofError> {
        let before: Vec<Before<'_>> = before
            .iter()
            .map(|(key, value)| (key.as_bytes(), *value))
            .collect();
        let mut inversion = Self::empty(blocks);
        inversion.descend(NodeRef::root(root), &before)?;
        Ok(inversion)
    }

    fn empty(blocks: &'b Blocks) -> Self {
        Self {
            blocks,
            found: Vec::new(),
            items: Vec::new(),
            memory: 0,
        }
    }

    /// The value of each key in the tree, in the order of the keys.
    pub fn found(&self) -> &[Presence] {
        &self.found
    }

    /// The root of the tree with the earlier values.
    ///
    /// # Errors
    /// If a node that is needed for this is missing or not valid.
    pub fn root(self) -> Result<Cid, ProofError> {
        let mut items = self.items;
        loop {
            // Only a subtree without a block is left. Its CID is the root of the tree.
            if let [TreePart::Subtree(node_ref)] = items.as_slice()
                && !self.blocks.contains(&node_ref.cid)
            {
                return Ok(node_ref.cid);
            }
            // A subtree on the top layer may have no entries there, if it only links two layers.
            let top = items.iter().map(TreePart::layer).max().flatten();
            if !items.iter().any(|item| item.is_subtree_of(top)) {
                return build(self.blocks, items, top.unwrap_or(0));
            }
            items = open_layer(self.blocks, items, top)?;
        }
    }

    /// Appends the parts below `node_ref`, with the values of `before`, whose keys all lie below
    /// it. A subtree without such a key stays closed.
    fn descend(&mut self, node_ref: NodeRef, before: &[Before<'_>]) -> Result<(), ProofError> {
        if before.is_empty() {
            self.items.push(TreePart::Subtree(node_ref));
            return Ok(());
        }
        self.open(node_ref, before)
    }

    /// Like `descend`, but opens the node even if no key lies below it.
    fn open(&mut self, node_ref: NodeRef, mut before: &[Before<'_>]) -> Result<(), ProofError> {
        let cid = node_ref.cid;
        let opened = node_ref.open(self.blocks)?;
        self.memory += opened.node.memory();
        if self.memory > MAX_MEMORY {
            return Err(ProofError::new(
                cid,
                ProofFault::Memory { limit: MAX_MEMORY },
            ));
        }
        for (index, entry) in opened.node.entries.iter().enumerate() {
            let lower = before.partition_point(|(key, _)| **key < *entry.key);
            let (lower, rest) = before.split_at(lower);
            self.fill_gap(opened.gap(index)?, lower)?;
            before = rest;
            match before.split_first() {
                Some((&(key, value), rest)) if *key == *entry.key => {
                    self.put_back(Presence::Present(entry.value), key, value);
                    before = rest;
                }
                _ => self.items.push(TreePart::Leaf {
                    key: entry.key.clone(),
                    value: entry.value,
                    layer: opened.layer.unwrap_or(0),
                }),
            }
        }
        self.fill_gap(opened.gap(opened.node.entries.len())?, before)
    }

    /// Appends the part between two entries: a subtree or nothing.
    fn fill_gap(&mut self, gap: Option<NodeRef>, before: &[Before<'_>]) -> Result<(), ProofError> {
        if let Some(node_ref) = gap {
            return self.descend(node_ref, before);
        }
        for &(key, value) in before {
            self.put_back(Presence::Absent, key, value);
        }
        Ok(())
    }

    fn put_back(&mut self, found: Presence, key: &[u8], value: Option<Cid>) {
        self.found.push(found);
        self.items.extend(value.map(|value| TreePart::Leaf {
            key: key.into(),
            value,
            layer: layer_of(key),
        }));
    }
}

impl TreePart {
    /// `None` for the root as long as it is closed.
    fn layer(&self) -> Option<u32> {
        match self {
            Self::Leaf { layer, .. } => Some(*layer),
            Self::Subtree(node_ref) => node_ref.layer,
        }
    }

    fn key_bytes(&self) -> usize {
        match self {
            Self::Leaf { key, .. } => key.len(),
            Self::Subtree(_) => 0,
        }
    }

    fn is_subtree_of(&self, layer: Option<u32>) -> bool {
        matches!(self, Self::Subtree(node_ref) if node_ref.layer == layer)
    }
}

/// The root of the empty tree.
pub fn empty_root() -> Cid {
    address_of(&Node::new(0, None, Vec::new()).encode())
}

/// The CID of the node of `layer` that holds all `items`. Their subtrees are of lower layers.
fn build(blocks: &Blocks, items: Vec<TreePart>, layer: u32) -> Result<Cid, ProofError> {
    let (mut left, mut entries) = (None, Vec::<Entry>::new());
    let mut between = Vec::new();
    let mut close = |entries: &mut Vec<Entry>, between: Vec<TreePart>| {
        let subtree = build_below(blocks, between, layer)?;
        match entries.last_mut() {
            Some(entry) => entry.right = subtree,
            None => left = subtree,
        }
        Ok(())
    };
    for item in items {
        match item {
            TreePart::Leaf {
                key,
                value,
                layer: own,
            } if own == layer => {
                close(&mut entries, std::mem::take(&mut between))?;
                entries.push(Entry {
                    key,
                    value,
                    right: None,
                });
            }
            lower => between.push(lower),
        }
    }
    close(&mut entries, between)?;
    Ok(address_of(&Node::new(layer, left, entries).encode()))
}

/// The subtree for the items between two entries of a node of `layer`.
fn build_below(
    blocks: &Blocks,
    items: Vec<TreePart>,
    layer: u32,
) -> Result<Option<Cid>, ProofError> {
    // There is no layer below 0.
    let Some(below) = layer.checked_sub(1).filter(|_| !items.is_empty()) else {
        return Ok(None);
    };
    if let [TreePart::Subtree(node_ref)] = items.as_slice()
        && node_ref.layer == Some(below)
    {
        return Ok(Some(node_ref.cid));
    }
    let items = open_layer(blocks, items, Some(below))?;
    build(blocks, items, below).map(Some)
}

/// Opens the subtrees of `layer`, which now share a node with other items.
fn open_layer(
    blocks: &Blocks,
    items: Vec<TreePart>,
    layer: Option<u32>,
) -> Result<Vec<TreePart>, ProofError> {
    let mut opened = Inversion::empty(blocks);
    // The keys that were opened before are still there.
    opened.memory = items.iter().map(TreePart::key_bytes).sum();
    for item in items {
        match item {
            TreePart::Subtree(node_ref) if node_ref.layer == layer => opened.open(node_ref, &[])?,
            item => opened.items.push(item),
        }
    }
    Ok(opened.items)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use simulated_network::car::{Blocks as Built, address_of, write_car};
    use simulated_network::mst::Tree;

    use super::*;
    use crate::atproto::mst::ProofFault;

    type Values = BTreeMap<String, Cid>;

    /// The earlier values of some keys; `None` means that the key was absent.
    type Changes = BTreeMap<String, Option<Cid>>;

    fn value(random: &mut Rng) -> Cid {
        address_of(&random.u64(..).to_be_bytes())
    }

    /// A tree after a commit, and what the commit changed.
    fn commit(random: &mut Rng) -> (Values, Changes) {
        let space = random.u32(1..400);
        let key = |random: &mut Rng| format!("a/{}", random.u32(..space));
        let after: Values = (0..random.u32(..space))
            .map(|_| (key(random), value(random)))
            .collect();
        let changes = (0..random.u32(..12))
            .map(|_| (key(random), random.bool().then(|| value(random))))
            .collect();
        (after, changes)
    }

    fn before(after: &Values, changes: &Changes) -> Values {
        let mut before = after.clone();
        for (key, value) in changes {
            match value {
                Some(value) => drop(before.insert(key.clone(), *value)),
                None => drop(before.remove(key)),
            }
        }
        before
    }

    fn invert(
        root: Cid,
        built: &Built,
        changes: &Changes,
    ) -> Result<(Vec<Presence>, Cid), ProofError> {
        let blocks = Blocks::read_all(&write_car(root, built)).unwrap();
        let changes = changes.iter().map(|(key, value)| (key.as_str(), *value));
        let inversion = Inversion::new(&blocks, root, &changes.collect())?;
        Ok((inversion.found().to_vec(), inversion.root()?))
    }

    #[test]
    fn undoing_the_changes_gives_the_tree_before() {
        for seed in 0..400 {
            let mut random = Rng::with_seed(seed);
            let (after, changes) = commit(&mut random);
            let tree = Tree::build(&after);
            let (found, root) = invert(tree.root, &tree.blocks(), &changes).unwrap();
            let expected = Tree::build(&before(&after, &changes)).root;
            assert_eq!(root, expected, "seed {seed}");
            let held: Vec<Presence> = changes
                .keys()
                .map(|key| match after.get(key) {
                    Some(value) => Presence::Present(*value),
                    None => Presence::Absent,
                })
                .collect();
            assert_eq!(found, held, "seed {seed}");
        }
    }

    #[test]
    fn a_missing_node_is_an_error_and_never_a_wrong_tree() {
        let (mut missed, mut spared) = (0, 0);
        for seed in 0..400 {
            let mut random = Rng::with_seed(seed);
            let (after, changes) = commit(&mut random);
            let expected = Tree::build(&before(&after, &changes)).root;
            let tree = Tree::build(&after);
            let mut blocks = tree.blocks();
            let percent = random.u32(..100);
            blocks.retain(|_, _| random.u32(..100) < percent);
            match invert(tree.root, &blocks, &changes) {
                Ok((_, root)) => {
                    assert_eq!(root, expected, "seed {seed}");
                    spared += 1;
                }
                Err(ProofError { node, fault }) => {
                    assert_eq!(fault, ProofFault::Missing, "seed {seed}");
                    assert!(!blocks.contains_key(&node), "seed {seed}");
                    missed += 1;
                }
            }
        }
        assert!(missed > 50 && spared > 50, "{missed} and {spared}");
    }

    #[test]
    fn a_tree_can_be_undone_to_the_empty_tree_and_back() {
        for seed in 0..50 {
            let mut random = Rng::with_seed(seed);
            let (values, _) = commit(&mut random);
            let tree = Tree::build(&values);
            let gone = values.keys().map(|key| (key.clone(), None)).collect();
            let (_, root) = invert(tree.root, &tree.blocks(), &gone).unwrap();
            assert_eq!(root, empty_root(), "seed {seed}");

            let empty = Tree::build(&Values::new());
            assert_eq!(empty.root, empty_root());
            let back = values
                .iter()
                .map(|(key, value)| (key.clone(), Some(*value)));
            let (_, root) = invert(empty.root, &empty.blocks(), &back.collect()).unwrap();
            assert_eq!(root, tree.root, "seed {seed}");
        }
    }

    #[test]
    fn a_tree_without_changes_needs_no_blocks() {
        let tree = Tree::build(&Values::from([("a/1".to_owned(), address_of(b"x"))]));
        let unknown = invert(tree.root, &Built::new(), &Changes::new());
        assert_eq!(unknown, Ok((Vec::new(), tree.root)));
    }

    #[test]
    fn a_subtree_beside_a_removed_key_must_keep_to_its_key_range() {
        // The keys come from the vectors and are of the layers 0 and 1.
        let (high, low, lower) = ("blue", "2653ae71", "0");
        assert_eq!(
            [high, low, lower].map(|key| layer_of(key.as_bytes())),
            [1, 0, 0]
        );
        let leaf = |key: &str| {
            let entry = Entry {
                key: key.as_bytes().into(),
                value: address_of(b"x"),
                right: None,
            };
            Node::new(0, None, vec![entry])
        };
        // Both are less than the key between them.
        let (left, right) = (leaf(lower).encode(), leaf(low).encode());
        let root = Node::new(
            1,
            Some(address_of(&left)),
            vec![Entry {
                key: high.as_bytes().into(),
                value: address_of(b"x"),
                right: Some(address_of(&right)),
            }],
        )
        .encode();
        let blocks = [root.clone(), left, right.clone()].map(|block| (address_of(&block), block));
        let gone = Changes::from([(high.to_owned(), None)]);
        let refused = invert(address_of(&root), &Built::from(blocks), &gone).unwrap_err();
        assert_eq!(
            (*refused.node, refused.fault),
            (address_of(&right), ProofFault::Order)
        );
    }
}
