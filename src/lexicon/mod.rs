//! Lexicon: documents, validation of records against the schema of their collection, and sanitizing
//! of text.
//!
//! It implements <https://atproto.com/specs/lexicon> and is tested with the protocol's own vectors
//! (`tests/lexicon_vectors.rs`, `tests/format_vectors.rs`). Of the published validators, the one
//! that reads schemas at run time fails some of these vectors, and depends on an HTTP client and a
//! DNS resolver.

mod checks;
mod data_model;
mod documents;
mod fault;
mod folder;
pub mod format;
mod lexicons;
mod names;
pub mod policy;
mod problems;
mod refs;
pub mod sanitize;
mod schemas;
mod typed_view;
mod validate;

pub use data_model::DataValue;
pub use documents::SchemaError;
pub use folder::MAX_DOCUMENT;
pub use lexicons::{Lexicons, check_document};
pub use names::{FIXED_COLUMNS, is_own_name};
pub use policy::{Policies, Policy, PolicyError};
pub use problems::{LexiconError, LexiconErrors};
pub use schemas::{Schemas, Validation};
pub use typed_view::{Column, ColumnKind, TypedView, ViewError};
pub use validate::ValidationError;
