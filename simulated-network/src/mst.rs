//! The Merkle search tree, built from all its entries.
//!
//! The layer of an entry is the number of leading zero bits of its key's SHA-256, in pairs. Entries
//! of the greatest layer are in the root. Entries between two neighbours are in the subtree between
//! them, one layer down, even if that layer has no entries of its own.

use std::collections::BTreeMap;

use cid::Cid;
use ipld_core::ipld::Ipld;
use sha2::{Digest, Sha256};

use crate::car::{Blocks, address_of, encode};

/// A node with everything below it.
#[derive(Clone, Debug)]
pub struct Tree {
    pub root: Cid,
    block: Vec<u8>,
    left: Option<Box<Tree>>,
    entries: Vec<(String, Option<Box<Tree>>)>,
}

impl Tree {
    /// The tree of record CIDs by path.
    pub fn build(values: &BTreeMap<String, Cid>) -> Self {
        let sorted: Vec<(&str, Cid, u32)> = values
            .iter()
            .map(|(key, &value)| (key.as_str(), value, depth(key)))
            .collect();
        let top = sorted.iter().map(|entry| entry.2).max().unwrap_or(0);
        Self::layer(&sorted, top)
    }

    fn layer(sorted: &[(&str, Cid, u32)], layer: u32) -> Self {
        let mut own = sorted
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.2 == layer)
            .map(|(index, _)| index)
            .peekable();
        let subtree = |from: usize, to: usize| {
            (from < to).then(|| Box::new(Self::layer(&sorted[from..to], layer - 1)))
        };
        let left = subtree(0, own.peek().copied().unwrap_or(sorted.len()));
        let mut entries = Vec::new();
        let mut encoded = Vec::new();
        let mut previous = "";
        while let Some(index) = own.next() {
            let (key, value, _) = sorted[index];
            let right = subtree(index + 1, own.peek().copied().unwrap_or(sorted.len()));
            let shared = common_prefix(previous, key);
            encoded.push(Ipld::Map(BTreeMap::from([
                ("p".to_owned(), Ipld::Integer(shared as i128)),
                (
                    "k".to_owned(),
                    Ipld::Bytes(key.as_bytes()[shared..].to_vec()),
                ),
                ("v".to_owned(), Ipld::Link(value)),
                ("t".to_owned(), link(right.as_deref())),
            ])));
            entries.push((key.to_owned(), right));
            previous = key;
        }
        let block = encode(&Ipld::Map(BTreeMap::from([
            ("l".to_owned(), link(left.as_deref())),
            ("e".to_owned(), Ipld::List(encoded)),
        ])));
        Self {
            root: address_of(&block),
            block,
            left,
            entries,
        }
    }

    /// The blocks of all nodes.
    pub fn blocks(&self) -> Blocks {
        let mut blocks = Blocks::from([(self.root, self.block.clone())]);
        let subtrees = self.entries.iter().filter_map(|(_, right)| right.as_ref());
        for subtree in self.left.iter().chain(subtrees) {
            blocks.extend(subtree.blocks());
        }
        blocks
    }

    /// The block of the root.
    pub fn root_block(&self) -> &[u8] {
        &self.block
    }

    /// Adds the nodes on the way to `key`, or to the position where it would be.
    pub fn add_path(&self, key: &str, blocks: &mut Blocks) {
        blocks.insert(self.root, self.block.clone());
        let index = self
            .entries
            .partition_point(|entry| entry.0.as_str() <= key);
        let below = match index.checked_sub(1) {
            None => self.left.as_ref(),
            Some(index) if self.entries[index].0 == key => None,
            Some(index) => self.entries[index].1.as_ref(),
        };
        if let Some(below) = below {
            below.add_path(key, blocks);
        }
    }
}

fn link(tree: Option<&Tree>) -> Ipld {
    tree.map_or(Ipld::Null, |tree| Ipld::Link(tree.root))
}

/// The layer of a key.
pub fn depth(key: &str) -> u32 {
    let mut zeros = 0;
    for byte in Sha256::digest(key) {
        zeros += byte.leading_zeros();
        if byte != 0 {
            break;
        }
    }
    zeros / 2
}

/// The length of the common prefix of two keys, in bytes.
pub fn common_prefix(left: &str, right: &str) -> usize {
    let pairs = left.bytes().zip(right.bytes());
    pairs.take_while(|(left, right)| left == right).count()
}
