//! The supervisor tree: children, restart policy, intensity, progress.

pub mod actor;
pub mod address;
pub mod intensity;
pub mod progress;
pub mod role;
pub mod tree;
