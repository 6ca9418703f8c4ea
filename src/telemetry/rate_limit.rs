//! Limits repeated log lines.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Admits one line in each interval, and counts the suppressed ones.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    last: Option<Instant>,
    held_back: u64,
}

impl RateLimit {
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            held_back: 0,
        }
    }

    /// Whether to log now. If so, returns the number of lines suppressed since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if !is_due {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

/// A [`RateLimit`] that several tasks share.
#[derive(Debug)]
pub struct SharedRateLimit(Mutex<RateLimit>);

impl SharedRateLimit {
    pub fn new(interval: Duration) -> Self {
        Self(Mutex::new(RateLimit::new(interval)))
    }

    /// See [`RateLimit::admit`].
    pub fn admit(&self) -> Option<u64> {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limit.admit(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_admitted_in_each_interval_with_the_suppressed_count() {
        let mut limit = RateLimit::new(Duration::from_secs(10));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limit.admit(after(0)), Some(0));
        assert_eq!(limit.admit(after(1)), None);
        assert_eq!(limit.admit(after(9)), None);
        assert_eq!(limit.admit(after(10)), Some(2));
        assert_eq!(limit.admit(after(30)), Some(0));
    }
}
