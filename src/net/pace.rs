//! The rate of requests to one server: it falls when the server refuses and rises when it answers.

use std::time::Duration;

use tokio::time::Instant;

/// By how many requests a second the rate rises with each answer.
const RISE: f64 = 1.0;
/// What is left of the rate after a refusal.
const FALL: f64 = 0.75;

/// The rate at which requests start, and how far it may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Requests a second, in the long run, until answers and refusals change it.
    pub(crate) initial: u32,
    /// It never falls below this rate, so that a server that refuses for hours is still asked.
    pub(crate) least: u32,
    /// It never rises above this rate.
    pub(crate) most: u32,
    /// Requests at once after a time without requests.
    pub(crate) burst: u32,
}

impl Rate {
    /// A rate that never changes.
    pub(crate) fn fixed(per_second: u32, burst: u32) -> Self {
        Self {
            initial: per_second,
            least: per_second,
            most: per_second,
            burst,
        }
    }
}

/// A token bucket whose rate changes.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    per_second: f64,
    /// When the next request would be due if all requests had kept the interval.
    due: Option<Instant>,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            per_second: f64::from(rate.initial.max(1)),
            due: None,
        }
    }

    /// Reserves the next start time and returns the wait until then.
    pub(super) fn reserve(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now));
        let interval = Duration::from_secs(1).div_f64(self.per_second);
        self.due = Some(due + interval);
        let head_start = interval * self.rate.burst.saturating_sub(1);
        due.duration_since(now).saturating_sub(head_start)
    }

    pub(super) fn rise(&mut self) {
        self.set(self.per_second + RISE);
    }

    pub(super) fn fall(&mut self) {
        self.set(self.per_second * FALL);
    }

    fn set(&mut self, per_second: f64) {
        let least = f64::from(self.rate.least.max(1));
        self.per_second = per_second.min(f64::from(self.rate.most)).max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut pace = Pace::new(Rate::fixed(10, 3));
        let start = Instant::now();
        let mut wait_at = |millis| {
            pace.reserve(start + Duration::from_millis(millis))
                .as_millis()
        };
        let waits: Vec<_> = (0..5).map(|_| wait_at(0)).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
        // Two of the five are still due after a third of a second. A time without requests, however
        // long, allows no more than the burst.
        assert_eq!(wait_at(350), 0);
        let waits: Vec<_> = (0..4).map(|_| wait_at(100_000)).collect();
        assert_eq!(waits, [0, 0, 0, 100]);
    }

    #[test]
    fn the_rate_falls_by_a_part_and_rises_step_by_step_within_its_limits() {
        let mut pace = Pace::new(Rate {
            initial: 10,
            least: 2,
            most: 40,
            burst: 1,
        });
        pace.fall();
        assert!((pace.per_second - 7.5).abs() < 1e-9, "{pace:?}");
        pace.rise();
        assert!((pace.per_second - 8.5).abs() < 1e-9, "{pace:?}");
        (0..100).for_each(|_| pace.rise());
        assert!((pace.per_second - 40.0).abs() < 1e-9, "{pace:?}");
        (0..100).for_each(|_| pace.fall());
        assert!((pace.per_second - 2.0).abs() < 1e-9, "{pace:?}");
    }
}
