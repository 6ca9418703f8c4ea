//! Who has been at the same piece of work for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One actor's progress, shared with the supervisor, which restarts whoever is stuck.
#[derive(Clone, Debug)]
pub struct Progress {
    since: Instant,
    /// Milliseconds after `since` at which the handler took up its work, plus one; 0 at rest.
    busy_from: Arc<AtomicU64>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            busy_from: Arc::default(),
        }
    }

    /// Work is in hand until the guard is dropped.
    pub fn busy(&self) -> Busy {
        let elapsed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.busy_from.store(elapsed + 1, Ordering::Relaxed);
        Busy(self.busy_from.clone())
    }

    /// For how long the same work has been in hand; `None` at rest.
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

/// See [`Progress::busy`].
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
