//! The store, on a real SQLite file.

// The setting that allows it in tests sees only the functions marked as such.
#![allow(clippy::unwrap_used)]

mod accounts;
mod crashes;
mod cursor;
mod fixture;
mod gaps;
mod migrations;
mod order;
mod purge;
mod records;
mod trouble;
mod views;
