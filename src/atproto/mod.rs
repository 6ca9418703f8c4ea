//! Bytes and values of the AT Protocol: no I/O, no actors, no clock.

pub mod car;
pub mod cbor;
pub mod cbor_value;
mod cbor_writer;
pub mod datetime;
mod envelope_keys;
pub mod event;
pub mod json;
pub mod key;
pub mod mst;
pub mod pattern;
pub mod payload;
pub mod signed_commit;
pub mod skim;
pub mod syntax;
mod usual_commit;
pub mod verify;
