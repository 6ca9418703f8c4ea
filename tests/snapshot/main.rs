//! Repositories as hosts give them out: those of a simulated network, and what becomes of them once
//! anything in them is changed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod others;
mod records;
mod spool;
mod support;
mod verify;
