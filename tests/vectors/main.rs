//! Tests pure code with data: the protocol's own vectors, frames and repositories of production and
//! of the reference server, the corpus of the fuzz targets, and altered commits and repositories of
//! the simulated network.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dasl_cbor;
mod data_model;
mod formats;
mod fuzz_corpus;
mod lexicon_validation;
mod lexicons;
mod mst;
mod production_frames;
mod recorded_frames;
mod snapshot;
mod syntax;
mod verification;
