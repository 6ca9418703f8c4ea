//! Repositories as hosts give them out: those of a simulated network, and what becomes of them once
//! anything in them is changed.

mod others;
mod records;
mod spool;
mod support;
mod verify;
