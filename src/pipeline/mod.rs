//! The actors of one source, and the messages between them. Each actor has one file.
//!
//! An actor moves values, keeps time and owns state. The pure rooms below decide what happens with
//! a value.

pub mod accumulator;
mod backlog;
pub mod connection;
mod context;
mod control;
pub mod cursor;
pub mod decoder;
pub mod filter;
pub mod group;
pub mod indexer;
pub mod interest;
pub mod messages;
mod options;
pub mod rerun;

pub use self::context::{Context, Parts};
pub use self::control::{SourceControl, Wanted};
pub use self::options::{Options, Start};
