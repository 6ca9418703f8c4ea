//! References to nodes, and the check that a node belongs at its position in the tree.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use super::node::{Node, NodeError};
use crate::atproto::car::{Blocks, is_address_of};

/// Why blocks do not prove anything about a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {fault}")]
pub struct ProofError {
    /// The faulty node.
    pub node: Box<Cid>,
    pub fault: ProofFault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    #[error("its block does not hash to its CID")]
    Address,
    #[error("with it, the nodes that are needed at the same time take more than {limit} bytes")]
    Memory { limit: usize },
    #[error("it has no entries, and is neither an empty tree nor between two layers")]
    Empty,
    #[error("it is of layer {found}, at a position of layer {expected}")]
    Layer { expected: u32, found: u32 },
    #[error("its block is missing")]
    Missing,
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("it has keys outside the key range of its position")]
    Order,
    #[error("it is below layer 0")]
    TooDeep,
}

impl ProofError {
    pub(super) fn new(node: Cid, fault: ProofFault) -> Self {
        Self {
            node: Box::new(node),
            fault,
        }
    }
}

/// A reference to a node at a position in the tree. Its block may not have been read yet.
#[derive(Clone, Debug)]
pub(super) struct NodeRef {
    pub(super) cid: Cid,
    /// `None` at the root, because the keys of the root decide its layer.
    pub(super) layer: Option<u32>,
    /// Every key below is greater than this one.
    after: Option<Arc<[u8]>>,
    /// Every key below is less than this one.
    before: Option<Arc<[u8]>>,
}

/// A decoded node that belongs at its position.
pub(super) struct Opened {
    pub(super) node: Node,
    /// `None` for the one node of an empty tree.
    pub(super) layer: Option<u32>,
    node_ref: NodeRef,
}

impl NodeRef {
    pub(super) fn root(cid: Cid) -> Self {
        Self {
            cid,
            layer: None,
            after: None,
            before: None,
        }
    }

    pub(super) fn open(self, blocks: &Blocks) -> Result<Opened, ProofError> {
        let block = blocks.get(&self.cid).map(Bytes::as_ref);
        self.open_block(block)
    }

    /// Decodes `block` as this node. Checks the CID, the layer and the key range.
    pub(super) fn open_block(self, block: Option<&[u8]>) -> Result<Opened, ProofError> {
        let cid = self.cid;
        self.opened(block)
            .map_err(|fault| ProofError::new(cid, fault))
    }

    fn opened(self, block: Option<&[u8]>) -> Result<Opened, ProofFault> {
        let block = block.ok_or(ProofFault::Missing)?;
        if !is_address_of(&self.cid, block) {
            return Err(ProofFault::Address);
        }
        let node = Node::decode(block)?;
        let layer = self.layer_of(&node)?;
        self.check_range(&node)?;
        Ok(Opened {
            node,
            layer,
            node_ref: self,
        })
    }

    /// The layer of `node` at this position; `None` for the only node of an empty tree. A node
    /// without entries links the layer above to the layer below, so it must have a subtree and must
    /// not be the root.
    fn layer_of(&self, node: &Node) -> Result<Option<u32>, ProofFault> {
        match (self.layer, node.layer()) {
            (Some(expected), Some(found)) if expected != found => {
                Err(ProofFault::Layer { expected, found })
            }
            (_, Some(layer)) => Ok(Some(layer)),
            (Some(layer), None) if node.left.is_some() => Ok(Some(layer)),
            (None, None) if node.left.is_none() => Ok(None),
            (_, None) => Err(ProofFault::Empty),
        }
    }

    /// The keys of a node ascend, so checking the first and the last is enough.
    fn check_range(&self, node: &Node) -> Result<(), ProofFault> {
        let is_after = |key: &[u8]| self.after.as_deref().is_none_or(|bound| key > bound);
        let is_before = |key: &[u8]| self.before.as_deref().is_none_or(|bound| key < bound);
        let (first, last) = (node.entries.first(), node.entries.last());
        if first.is_none_or(|entry| is_after(&entry.key))
            && last.is_none_or(|entry| is_before(&entry.key))
        {
            Ok(())
        } else {
            Err(ProofFault::Order)
        }
    }
}

impl Opened {
    /// The subtree before the entry at `index`, or after the last entry.
    pub(super) fn gap(&self, index: usize) -> Result<Option<NodeRef>, ProofError> {
        let entries = &self.node.entries;
        let previous = index.checked_sub(1).and_then(|index| entries.get(index));
        let Some(cid) = previous.map_or(self.node.left, |entry| entry.right) else {
            return Ok(None);
        };
        let below = self.layer.and_then(|layer| layer.checked_sub(1));
        Ok(Some(NodeRef {
            cid,
            layer: Some(below.ok_or_else(|| ProofError::new(cid, ProofFault::TooDeep))?),
            after: previous.map_or_else(
                || self.node_ref.after.clone(),
                |entry| Some(entry.key.clone()),
            ),
            before: entries.get(index).map_or_else(
                || self.node_ref.before.clone(),
                |entry| Some(entry.key.clone()),
            ),
        }))
    }
}
