//! The Merkle search tree over a repository's records: what a node says, and what a set of nodes
//! proves.
//!
//! Spec: <https://atproto.com/specs/repository#mst-structure>. A key is a record's path
//! (`collection/rkey`), a value the CID of its record. Each key has a layer, which its hash decides
//! ([`layer_of`]); a node holds keys of one layer, and between two of them, and at both ends, a link
//! to a subtree one layer down, where there are keys to go into it. So a set of keys and values has
//! one tree and one root, whatever the order in which it was made.
//!
//! What is strict here is what makes that so. A signature vouches only for the root's CID: a tree
//! of another shape, or a node that is written in another way, would be signed just as well, and
//! would be read in different ways by different readers.

mod inversion;
mod node;
mod place;
mod proof;
mod walk;

pub use inversion::{Inversion, empty_root};
pub use node::{Entry, MAX_ENTRIES, MAX_KEY_BYTES, MAX_NODE_BYTES, Node, NodeError, layer_of};
pub use place::{ProofError, ProofFault};
pub use proof::{Presence, find};
pub use walk::{Leaf, Walk, WalkError};
