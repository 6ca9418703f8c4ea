//! A generic supervisor tree: children, restart policy, backoff, intensity, progress.
//!
//! It knows no actor by name. A child is a [`ChildSpec`]: a name, how to spawn it, and what to do
//! when it has started or ended.

mod actor;
mod child;
mod intensity;
mod tree;

pub use self::child::ChildSpec;
pub use self::tree::{Tree, TreeError};

use std::time::Duration;

/// The restart policy: when failed children are restarted, and when the tree gives up.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The first delay before a restart. It doubles with each failure, up to `restart_max`.
    pub restart_min: Duration,
    pub restart_max: Duration,
    /// If more failures than this occur within `window`, the tree ends.
    pub limit: u32,
    pub window: Duration,
    /// A child that is busy with one piece of work for longer than this is killed.
    pub stuck_after: Duration,
}

/// What the supervisor needs to know of the work that its children do.
pub trait Work: Send + Sync + 'static {
    /// The number of failures so far in which a child had a piece of work in hand. Each brings the
    /// search for a faulty piece forward, so many more of them are tolerated than of other
    /// failures.
    fn delivery_failures(&self) -> u64;

    /// Hands out again what has waited for longer than `limit`. It is called while no child is
    /// busy.
    fn redeliver_stalled(&self, limit: Duration);
}
