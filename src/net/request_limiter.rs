//! Limits the number of concurrent requests and their rate.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// Admits requests one by one.
#[derive(Debug)]
pub(crate) struct RequestLimiter {
    slots: Semaphore,
    pace: Mutex<Pace>,
}

/// A token bucket: `per_second` requests a second in the long run, and `burst` requests at once
/// after a pause.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    burst: u32,
    /// When the next request would be due if all requests had kept the interval.
    due: Option<Instant>,
}

impl RequestLimiter {
    pub(crate) fn new(slots: usize, per_second: u32, burst: u32) -> Self {
        Self {
            slots: Semaphore::new(slots),
            pace: Mutex::new(Pace {
                interval: Duration::from_secs(1) / per_second.max(1),
                burst: burst.max(1),
                due: None,
            }),
        }
    }

    /// Waits for a slot. The caller holds the slot until it drops the permit. First come, first
    /// served.
    pub(crate) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so this is always a permit.
        let permit = self.slots.acquire().await.ok();
        let wait = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.reserve(Instant::now())
        };
        sleep(wait).await;
        permit
    }
}

impl Pace {
    /// Reserves the next start time and returns the wait until then.
    fn reserve(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + self.interval);
        let head_start = self.interval * (self.burst - 1);
        due.duration_since(now).saturating_sub(head_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let limiter = RequestLimiter::new(1, 10, 3);
        let mut pace = limiter.pace.into_inner().unwrap();
        let start = Instant::now();
        let mut wait_at = |millis| {
            pace.reserve(start + Duration::from_millis(millis))
                .as_millis()
        };
        let waits: Vec<_> = (0..5).map(|_| wait_at(0)).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
        // Two of the five are still due after a third of a second. A pause of any length allows no
        // more than the burst.
        assert_eq!(wait_at(350), 0);
        let waits: Vec<_> = (0..4).map(|_| wait_at(100_000)).collect();
        assert_eq!(waits, [0, 0, 0, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_free_again_after_its_request() {
        let limiter = RequestLimiter::new(1, 1000, 1000);
        let turn = limiter.enter().await;
        let second = tokio::time::timeout(Duration::from_secs(3600), limiter.enter()).await;
        assert!(second.is_err());
        drop(turn);
        assert!(limiter.enter().await.is_some());
    }
}
