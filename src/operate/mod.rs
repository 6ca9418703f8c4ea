//! What the operator sees: metrics, health, status.

pub mod status;
