//! `huddle-firehose`: from the AT Protocol firehose to SQL tables, losing nothing.
//!
//! The rooms, from the top to the bottom. A room uses those below it; `docs/architecture.md` has the
//! picture and the way of an event.

// Settings from file, environment and command line.
pub mod config;

// Puts a worker together and starts it.
pub mod worker;

// The consumer of a queue: applies index tasks to tables elsewhere.
pub mod consume;

// Restarts failed actors.
pub mod supervisor;

// The operator's endpoints over HTTP.
pub mod admin;

// What operators ask for, and what carries it out.
pub mod command;

// The actors of one source.
pub mod pipeline;

// What follows the change feed: Postgres, webhooks, queues; what queues are applied to.
pub mod sink;

// What a transaction writes, and the SQLite store.
pub mod store;

// Repositories as a whole: fetched, compared, discovered.
pub mod repo;

// Connections, frames, decoding, the filter's rules.
pub mod source;

// Ledger, order, gaps, backoff: why nothing is lost.
pub mod delivery;

// The records of Huddle and their rows.
pub mod huddle;

// Validation of records.
pub mod lexicon;

// Signing keys and hosts of accounts.
pub mod identity;

// Limits and addresses of every network request.
pub mod net;

// Logs, metrics, health, status.
pub mod telemetry;

// What all actors need.
pub mod actor;

// Fault points, recordings, a relay for tests and demos.
pub mod testing;

// Bytes and values of the AT Protocol.
pub mod atproto;

// The words that all rooms share.
pub mod model;
