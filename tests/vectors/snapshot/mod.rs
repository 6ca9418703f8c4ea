//! Tests snapshots: repositories of a simulated network as hosts serve them, whole and altered.

mod others;
mod records;
mod spool;
mod support;
mod verify;
