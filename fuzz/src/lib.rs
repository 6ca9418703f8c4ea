//! What must hold of outside data, whatever it is. One check a fuzz target, each a function of the
//! input that panics where it does not hold; `tests/fuzz_corpus.rs` of the service replays the
//! committed corpus through the same functions.

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
