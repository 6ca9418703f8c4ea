//! A simulated AT Protocol network for tests. The tests know its true state.
//!
//! [`network::Network`] creates random events from a seed, one at a time: real repositories with
//! Merkle search trees and signatures, identities, account statuses, migrations. A [`relay::Relay`]
//! serves its events over WebSocket, and an [`http::HttpServer`] serves its documents and
//! repositories. [`oracle::Oracle`] gives the state of the network after any event. The code here
//! shares nothing with the program under test.

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
