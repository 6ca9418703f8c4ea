//! What every actor needs: an address that survives restarts, a measure of its progress, the fault
//! seam.

pub mod address;
mod context;
pub mod progress;

pub use self::context::{ActorContext, Arguments};
