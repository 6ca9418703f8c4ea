//! Properties that hold for any input from outside. Each fuzz target has one check: a function of
//! the input that panics if a property does not hold. `tests/vectors/fuzz_corpus.rs` of the
//! service runs the committed corpus through the same functions.

pub mod car;
pub mod commit;
pub mod configuration;
pub mod cursor;
mod envelope;
pub mod frame;
pub mod lexicon_document;
pub mod mst_node;
pub mod record;
pub mod skim;
