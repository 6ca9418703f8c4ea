//! One measured round.

use std::time::Duration;

use crate::usage::Usage;

/// One round: the same work, bare and by the worker.
pub(crate) struct Round {
    pub(crate) events: u64,
    /// `None` for a row that has no bare limit to be compared with.
    pub(crate) bare: Option<Duration>,
    pub(crate) worker: Usage,
}
