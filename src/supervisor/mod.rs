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

/// When failed children are restarted, and when the tree gives up.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The first wait before a restart; it doubles up to `restart_max`.
    pub restart_min: Duration,
    pub restart_max: Duration,
    /// More failures than this within `window` end the tree.
    pub limit: u32,
    pub window: Duration,
    /// A child that is busy with one piece of work for longer than this is killed.
    pub stuck_after: Duration,
}

/// What the supervisor asks of the work that its children do.
pub trait Work: Send + Sync + 'static {
    /// How many failures so far were put down to a piece of work, which brings the search for the
    /// faulty piece forward. Many more of them are tolerated than of others.
    fn delivery_failures(&self) -> u64;

    /// Called while no child is busy: hands out again what has waited for longer than `limit`.
    fn redeliver_stalled(&self, limit: Duration);
}
