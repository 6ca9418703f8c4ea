//! What the operator sees: metrics, health, status.

pub mod log;
pub mod status;
