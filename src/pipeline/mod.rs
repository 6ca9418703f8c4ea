//! The actors of one source, and the messages between them. One file an actor.
//!
//! An actor moves values, keeps time and owns state. The pure rooms below decide what is to be done
//! with a value.

pub mod accumulator;
pub mod connection;
mod context;
pub mod cursor;
pub mod decoder;
pub mod filter;
pub mod indexer;
pub mod messages;
mod options;

pub use self::context::{Context, Parts};
pub use self::options::{Options, Start};
