//! Lexicon: which shape the records of a collection have, and which text is fit to be shown.
//!
//! Written after <https://atproto.com/specs/lexicon> and held against the protocol's own vectors
//! (`tests/vectors/lexicons.rs`, `tests/vectors/formats.rs`). Of the published validators, the one
//! that reads schemas at run time fails some of them and brings an HTTP client and a DNS resolver
//! along.

mod data_model;
mod documents;
pub mod format;
pub mod policy;
pub mod sanitize;
mod schemas;
mod validate;

pub use documents::SchemaError;
pub use policy::{Policies, Policy};
pub use schemas::{Schemas, Verdict};
pub use validate::ValidationError;
