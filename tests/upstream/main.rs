//! What the worker asks of others over real sockets, each by itself: relays, directories, and hosts of
//! repositories.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connection;
mod hosts;
mod identity;
