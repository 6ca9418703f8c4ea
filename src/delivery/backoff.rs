//! Exponential backoff with jitter: the delays before retries.

use std::time::Duration;

use fastrand::Rng;

/// Delays that double from a minimum to a maximum. Each is shortened by a random part, so that
/// workers that failed together do not retry together.
///
/// It has no clock and does not sleep. The owner decides when to [`reset`](Self::reset). The owner
/// must not reset at the first sign of success, because that causes a hot loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter: f64,
    failures: u32,
    rng: Rng,
}

/// Limits that do not define a backoff.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum InvalidBackoff {
    #[error("the jitter must be at least 0 and less than 1, and is {0}")]
    Jitter(f64),
    #[error("the longest delay ({max:?}) is shorter than the shortest ({min:?})")]
    MaxBelowMin { min: Duration, max: Duration },
    #[error("the shortest delay must be longer than zero")]
    ZeroMin,
}

impl Backoff {
    /// Delays from `min` to `max`. Jitter takes off up to the fraction `jitter` of each delay.
    ///
    /// # Errors
    /// `min` must be longer than zero, otherwise failures would be retried in a hot loop; `max`
    /// must not be shorter than `min`; `jitter` must be in 0.0..1.0, for the same reason.
    pub fn try_new(
        min: Duration,
        max: Duration,
        jitter: f64,
        rng: Rng,
    ) -> Result<Self, InvalidBackoff> {
        if min.is_zero() {
            return Err(InvalidBackoff::ZeroMin);
        }
        if max < min {
            return Err(InvalidBackoff::MaxBelowMin { min, max });
        }
        if !(0.0..1.0).contains(&jitter) {
            return Err(InvalidBackoff::Jitter(jitter));
        }
        Ok(Self {
            min,
            max,
            jitter,
            failures: 0,
            rng,
        })
    }

    /// Counts one more failure and returns the delay before the retry.
    pub fn next_delay(&mut self) -> Duration {
        let doubled = 2_u32
            .checked_pow(self.failures)
            .and_then(|factor| self.min.checked_mul(factor));
        self.failures = self.failures.saturating_add(1);
        self.jittered(doubled.map_or(self.max, |delay| delay.min(self.max)))
    }

    /// Counts one more failure that a quick retry cannot fix, and returns the longest delay.
    pub fn ceiling_delay(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.jittered(self.max)
    }

    /// Resets the count: the next failure counts as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn jittered(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(1.0 - self.jitter * self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(60);

    fn backoff(jitter: f64, seed: u64) -> Backoff {
        Backoff::try_new(MIN, MAX, jitter, Rng::with_seed(seed)).unwrap()
    }

    #[test]
    fn delays_double_from_the_minimum_to_the_ceiling() {
        let mut backoff = backoff(0.0, 0);
        let seconds: Vec<u64> = (0..9).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_reset_starts_again_at_the_minimum() {
        let mut backoff = backoff(0.0, 0);
        backoff.next_delay();
        backoff.next_delay();
        assert_eq!(backoff.failures(), 2);
        backoff.reset();
        assert_eq!(backoff.next_delay(), MIN);
    }

    #[test]
    fn a_ceiling_delay_is_the_longest_at_once() {
        assert_eq!(backoff(0.0, 0).ceiling_delay(), MAX);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = |seed| {
            let mut backoff = backoff(0.5, seed);
            (0..5)
                .map(move |_| backoff.next_delay())
                .collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn limits_that_would_make_a_hot_loop_are_refused() {
        let rng = Rng::with_seed(0);
        let attempt = |min, max, jitter| Backoff::try_new(min, max, jitter, rng.clone()).err();
        assert_eq!(
            attempt(Duration::ZERO, MAX, 0.0),
            Some(InvalidBackoff::ZeroMin)
        );
        assert_eq!(
            attempt(MAX, MIN, 0.0),
            Some(InvalidBackoff::MaxBelowMin { min: MAX, max: MIN })
        );
        assert_eq!(attempt(MIN, MAX, 1.0), Some(InvalidBackoff::Jitter(1.0)));
        assert!(attempt(MIN, MAX, f64::NAN).is_some());
    }

    proptest! {
        #[test]
        fn every_delay_lies_between_the_jittered_minimum_and_the_ceiling(
            jitter in 0.0..0.99,
            seed in any::<u64>(),
            failures in 1..200_usize,
        ) {
            let mut backoff = backoff(jitter, seed);
            for _ in 0..failures {
                let delay = backoff.next_delay();
                prop_assert!(delay <= MAX);
                prop_assert!(delay >= MIN.mul_f64((1.0 - jitter) * 0.999));
            }
        }
    }
}
