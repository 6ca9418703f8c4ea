//! The AT Protocol as bytes and values: no I/O, no actors, no clock.

pub mod event;
pub mod syntax;
