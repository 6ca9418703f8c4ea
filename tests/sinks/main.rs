//! Sinks: real servers, the real program, and failures on both sides.

// The setting that allows it in tests covers only functions with a test attribute.
#![allow(clippy::unwrap_used)]

mod consume;
mod consume_chaos;
mod consume_poison;
mod consuming;
mod effects;
mod follower;
mod nats;
mod postgres;
mod postgres_program;
mod postgres_rules;
mod truth;
mod two_workers;
mod webhook;
