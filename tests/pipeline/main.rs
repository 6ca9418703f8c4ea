//! The whole pipeline: a real WebSocket before it, a real SQLite file behind it, and things that go
//! wrong in between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/server.rs"]
mod server;

mod backpressure;
mod child;
mod crash;
mod crash_points;
mod database;
mod deaths;
mod disk;
mod guarded;
mod history;
mod losses;
mod meltdown;
mod observed;
mod oracle;
mod poison;
mod poisoned_decoder;
mod power_loss;
mod production;
mod program;
mod resume;
mod seqs;
mod source;
mod store_points;
mod support;
mod tables;
