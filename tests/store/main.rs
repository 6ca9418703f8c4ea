//! Tests of the store on a real SQLite file.

// The setting that allows it in tests covers only functions with a test attribute.
#![allow(clippy::unwrap_used)]

mod accounts;
mod announced;
mod chain;
mod chain_order;
mod commands;
mod commits;
mod crashes;
mod cursor;
mod cursor_marks;
mod dead_letters;
mod discoveries;
mod feed;
mod fixture;
mod foreign;
mod gaps;
mod guards;
mod handle_deaths;
mod handles;
mod identities;
mod interest;
mod jobs;
mod judgements;
mod letter_limits;
mod lexicon_views;
mod lost_stretch;
mod migrations;
mod order;
mod parked;
mod purge;
mod queries;
mod reconcile;
mod records;
mod removals;
mod reprocess;
mod resync;
mod snapshot;
mod trips;
mod trouble;
mod unconfirmed;
mod upkeep;
mod views;
mod wal;
