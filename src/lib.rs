//! `huddle-firehose`: from the AT Protocol firehose to SQL tables, losing nothing.
//!
//! The rooms, from the top to the bottom. A room uses those below it; `docs/architecture.md` has the
//! picture and the way of an event.

pub mod config;

pub mod worker;

pub mod supervisor;

pub mod pipeline;

pub mod admin;

pub mod store;

pub mod repo;

pub mod source;

pub mod delivery;

pub mod huddle;

pub mod lexicon;

pub mod identity;

pub mod net;

pub mod telemetry;

pub mod actor;

pub mod testing;

pub mod atproto;

pub mod model;
