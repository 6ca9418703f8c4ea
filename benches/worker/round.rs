//! One measured round.

use std::time::Duration;

/// One round: the same work, bare and by the worker.
pub(crate) struct Round {
    pub(crate) events: u64,
    pub(crate) bare: Duration,
    pub(crate) worker: Duration,
}
