//! Lexicon: validation of records against the schema of their collection, and sanitizing of text.
//!
//! It implements <https://atproto.com/specs/lexicon> and is tested with the protocol's own vectors
//! (`tests/lexicon_vectors.rs`, `tests/format_vectors.rs`). Of the published validators, the one
//! that reads schemas at run time fails some of these vectors, and depends on an HTTP client and a
//! DNS resolver.

mod data_model;
mod documents;
pub mod format;
pub mod policy;
pub mod sanitize;
mod schemas;
mod validate;

pub use data_model::DataValue;
pub use documents::SchemaError;
pub use policy::{Policies, Policy, PolicyError};
pub use schemas::{Schemas, Validation};
pub use validate::ValidationError;
