//! What must hold of outside data, whatever it is. One check a fuzz target, each a function of the
//! input that panics where it does not hold. The fuzz targets (`fuzz/`) and the replay of the committed
//! corpus (`tests/vectors/fuzz_corpus.rs`) call the same functions.

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
