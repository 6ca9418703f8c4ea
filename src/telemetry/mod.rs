//! What the operator sees: logs, metrics, health, status.

pub mod clocks;
pub mod dead_letters;
pub mod excerpt;
pub mod health;
pub mod log;
pub mod metrics;
pub mod rate_limit;
pub mod status;
