//! A simulated AT Protocol network whose truth is known, for tests.
//!
//! [`network::Network`] makes one random event at a time from a seed: real repositories with
//! Merkle search trees and signatures, identities, account statuses, migrations. What it emits can
//! be served by a [`relay::Relay`] over WebSocket and by an [`http::HttpServer`], and
//! [`oracle::Oracle`] tells what the network holds after any event. Nothing here shares code with
//! the program that is tested.

#![allow(
    clippy::expect_used,
    reason = "a simulation that contradicts itself has to stop the test that runs it"
)]

pub mod account;
mod adversary;
pub mod car;
pub mod feed;
pub mod frame;
pub mod http;
pub mod key;
pub mod mishap;
pub mod mst;
pub mod network;
pub mod oracle;
pub mod record;
pub mod relay;
pub mod repo;
pub mod shape;
pub mod tid;
