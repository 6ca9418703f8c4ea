//! Tests each actor of the pipeline alone. Real messages go in, and the mailboxes of its neighbours
//! and the store show what comes out. Time is paused, and store and source follow a script.
//!
//! Each test cites the invariant of `docs/invariants.md` that it holds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connection;
mod cursor;
mod decoder;
mod filter;
mod indexer;
mod keys;
mod pipeline_parts;
