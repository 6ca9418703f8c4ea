//! Tests the whole pipeline with a real WebSocket, a real SQLite file, and failures in between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backpressure;
mod change_of_source;
mod child;
mod command_deaths;
mod crash;
mod crash_points;
mod database;
mod deaths;
mod disk;
mod failed_reruns;
mod foreign;
mod history;
mod meltdown;
mod oracle;
mod poison;
mod poisoned_decoder;
mod power_loss;
mod production;
mod program;
mod resume;
mod seqs;
mod simulated_network;
mod source;
mod store_points;
