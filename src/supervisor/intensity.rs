//! Decides how many failures in which time are too many.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A sliding window of failures.
#[derive(Debug)]
pub(super) struct Intensity {
    limit: usize,
    window: Duration,
    failures: VecDeque<Instant>,
}

impl Intensity {
    /// Allows `limit` failures within `window`.
    pub(super) fn new(limit: usize, window: Duration) -> Self {
        Self {
            limit,
            window,
            failures: VecDeque::with_capacity(limit + 1),
        }
    }

    /// Notes a failure. Returns whether more than `limit` failures are within the window.
    pub(super) fn note(&mut self, now: Instant) -> bool {
        while self
            .failures
            .front()
            .is_some_and(|&at| now.duration_since(at) >= self.window)
        {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() > self.limit {
            self.failures.pop_front();
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 3.5.
    #[test]
    fn the_limit_is_reached_only_within_the_window() {
        let mut intensity = Intensity::new(2, Duration::from_secs(60));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!intensity.note(after(0)));
        assert!(!intensity.note(after(30)));
        assert!(!intensity.note(after(61)), "the first has left the window");
        assert!(intensity.note(after(62)), "three within 60 s");
    }
}
