//! How long an actor has had the same piece of work in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One actor's progress. The supervisor shares it, and restarts an actor that is stuck.
#[derive(Clone, Debug)]
pub struct Progress {
    since: Instant,
    /// When the handler began its work, in milliseconds after `since`, plus one. 0 means idle.
    busy_from: Arc<AtomicU64>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            busy_from: Arc::default(),
        }
    }

    /// Marks the actor as busy until the guard is dropped.
    pub fn busy(&self) -> Busy {
        let elapsed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.busy_from.store(elapsed + 1, Ordering::Relaxed);
        Busy(self.busy_from.clone())
    }

    /// How long the same work has been in hand. `None` means idle.
    pub fn busy_for(&self) -> Option<Duration> {
        let from = self.busy_from.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.since
                .elapsed()
                .saturating_sub(Duration::from_millis(from)),
        )
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// The guard of [`Progress::busy`].
#[derive(Debug)]
pub struct Busy(Arc<AtomicU64>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 8.4.
    #[tokio::test(start_paused = true)]
    async fn only_work_in_hand_counts_as_being_stuck() {
        let progress = Progress::new();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(progress.busy_for(), None);
        let busy = progress.busy();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(progress.busy_for(), Some(Duration::from_secs(5)));
        drop(busy);
        assert_eq!(progress.busy_for(), None);
    }
}
