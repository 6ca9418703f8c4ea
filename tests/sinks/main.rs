//! Sinks: real servers, the real program, and failures on both sides.

// The setting that allows it in tests covers only functions with a test attribute.
#![allow(clippy::unwrap_used)]

mod cancelled_rewinds;
mod cloudflare_queue;
mod consume;
mod consume_chaos;
mod consume_cloudflare;
mod consume_cloudflare_d1;
mod consume_d1;
mod consume_poison;
mod consume_postgres;
mod consume_readiness;
mod consumer;
mod consuming;
mod control;
mod d1;
mod d1_faults;
mod d1_migrations;
mod d1_program;
mod d1_rules;
mod effects;
mod follower;
mod lexicon_views;
mod nats;
mod nats_logins;
mod nats_tls;
mod pgbouncer;
mod postgres;
mod postgres_program;
mod postgres_rules;
mod postgres_tls;
mod table_rules;
mod truth;
mod two_workers;
mod webhook;
mod worker;
