//! The Merkle search tree over the records of a repository: its nodes, and proofs by sets of nodes.
//!
//! Spec: <https://atproto.com/specs/repository#mst-structure>. A key is the path of a record
//! (`collection/rkey`), a value is the CID of the record. The hash of a key decides its layer
//! ([`layer_of`]). A node holds keys of one layer. Between two keys and at both ends it has a link
//! to a subtree one layer down, if there are keys for that subtree. So a set of keys and values has
//! exactly one tree and one root, in whichever order the records were written.
//!
//! The checks here are strict to keep this true. A signature covers only the CID of the root. A
//! tree of another shape, or a node in another encoding, could be signed as well, and different
//! readers would read different contents from it.

mod inversion;
mod node;
mod node_ref;
mod proof;
mod walk;

pub use inversion::{Inversion, empty_root};
pub use node::{Entry, MAX_ENTRIES, MAX_KEY_BYTES, MAX_NODE_BYTES, Node, NodeError, layer_of};
pub use node_ref::{ProofError, ProofFault};
pub use proof::{Presence, find};
pub use walk::{Leaf, Walk, WalkError};
