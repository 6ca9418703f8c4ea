//! `huddle-firehose`: from the AT Protocol firehose to SQL tables, losing nothing.

pub mod actors;
pub mod config;
pub mod fault;
pub mod filter;
pub mod hosts;
pub mod huddle;
pub mod identity;
pub mod lexicon;
pub mod operate;
pub mod protocol;
pub mod queue;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod supervision;
pub mod verification;
pub mod worker;
