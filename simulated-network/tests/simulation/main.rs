//! What the network says is true, well formed and signed, by itself and over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod directed;
mod interop;
mod inversion;
mod mishaps;
mod network;
mod parsed_frames;
mod servers;
#[path = "../../../test-support/src/skipped.rs"]
mod skipped;
