//! Helpers that several integration tests of huddle-firehose share.
//!
//! A test takes its worker from [`running_worker`], [`worker_runtime`] or [`worker_process`], puts a [`mock_relay`], a
//! [`scripted_server`] or a [`simulation`] before it, and compares its [`tables`]. A test of one actor
//! takes that actor's neighbours from [`neighbours`].
//!
//! Unit tests inside `src` cannot use this crate: it is built against the library without its unit
//! tests, so its types are different ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

pub mod certificates;
pub mod cloudflare_queue;
pub mod commands;
pub mod connection_losses;
pub mod d1;
pub mod dns_server;
pub mod foreign_network;
pub mod fuzz_checks;
pub mod guarded_store;
pub mod http_proxy;
pub mod mock_relay;
pub mod nats;
pub mod neighbours;
pub mod observed_source;
pub mod postgres;
pub mod proxy;
pub mod record_json;
pub mod recorded_frames;
pub mod running_worker;
pub mod scripted_server;
pub mod scripted_source;
pub mod scripted_store;
pub mod shared_data;
pub mod simulation;
pub mod sink_tables;
pub mod skipped;
pub mod tables;
pub mod waiting;
pub mod worker_process;
pub mod worker_runtime;
