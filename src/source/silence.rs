//! Distinguishes a dead connection from a quiet stream, by data only.
//!
//! Pings prove nothing: peers have seen connections that answered every ping for hours and
//! delivered no event. A fixed timeout on data is not better, because a small host can be silent
//! for minutes although nothing is wrong. So the timeout follows the usual gaps of the source, and
//! a reconnect without new events is evidence that the stream is quiet.

use std::time::Duration;

use tokio::time::Instant;

/// After this time a gap counts for half: sources change, and a single outage should not count for
/// long.
const GAP_HALF_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long a source may be silent before the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SilenceLimits {
    /// Shorter silences are always accepted, also on a busy source.
    pub min: Duration,
    /// Longer silences always cause a reconnect, also on a quiet source.
    pub max: Duration,
    /// Between `min` and `max`: this multiple of the longest recent gap.
    pub factor: u32,
}

impl Default for SilenceLimits {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(30),
            max: Duration::from_secs(600),
            factor: 8,
        }
    }
}

/// Limits that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSilenceLimits {
    #[error("the longest silence ({max:?}) is shorter than the shortest ({min:?})")]
    MaxBelowMin { min: Duration, max: Duration },
    #[error("the shortest silence must be longer than zero")]
    ZeroMin,
}

/// Observes one source across its connections. The caller provides the time.
///
/// Call [`wait_from`](Self::wait_from) when a connection is made and whenever reading resumes after
/// a pause of the worker, [`data`](Self::data) when frames have arrived, and
/// [`gave_up`](Self::gave_up) when the connection was closed because [`deadline`](Self::deadline)
/// passed.
#[derive(Clone, Debug)]
pub struct SilenceDetector {
    limits: SilenceLimits,
    waiting_since: Instant,
    /// The longest gap between data on one connection, fading with [`GAP_HALF_LIFE`].
    longest_gap: Duration,
    /// Consecutive reconnects without new events.
    fruitless: u32,
}

impl SilenceDetector {
    /// # Errors
    /// If `min` is zero, or `max` is shorter than `min`.
    pub fn try_new(limits: SilenceLimits, now: Instant) -> Result<Self, InvalidSilenceLimits> {
        let SilenceLimits { min, max, .. } = limits;
        if min.is_zero() {
            return Err(InvalidSilenceLimits::ZeroMin);
        }
        if max < min {
            return Err(InvalidSilenceLimits::MaxBelowMin { min, max });
        }
        Ok(Self {
            limits,
            waiting_since: now,
            longest_gap: Duration::ZERO,
            fruitless: 0,
        })
    }

    /// The socket is read from now on. Time in which it was not read, because there was no
    /// connection or no budget, says nothing about the source.
    pub fn wait_from(&mut self, now: Instant) {
        self.waiting_since = now;
    }

    /// Call when frames have arrived.
    pub fn data(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.waiting_since);
        let fade = 0.5_f64.powf(gap.as_secs_f64() / GAP_HALF_LIFE.as_secs_f64());
        self.longest_gap = gap.max(self.longest_gap.mul_f64(fade));
        self.waiting_since = now;
        self.fruitless = 0;
    }

    /// Call when the connection was closed for its silence. If the next one is silent too, its
    /// timeout is doubled, up to the maximum.
    pub fn gave_up(&mut self) {
        self.fruitless = self.fruitless.saturating_add(1);
    }

    /// How long the source may be silent at present.
    pub fn threshold(&self) -> Duration {
        let SilenceLimits { min, max, factor } = self.limits;
        let usual = self.longest_gap.saturating_mul(factor).clamp(min, max);
        let backoff = 2_u32.saturating_pow(self.fruitless);
        usual.saturating_mul(backoff).min(max)
    }

    /// When the connection counts as dead, unless data arrives before.
    pub fn deadline(&self) -> Instant {
        self.waiting_since + self.threshold()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn detector() -> SilenceDetector {
        SilenceDetector::try_new(SilenceLimits::default(), Instant::now()).unwrap()
    }

    /// Reports data `count` times, `gap` apart.
    async fn stream(detector: &mut SilenceDetector, gap: Duration, count: u32) {
        for _ in 0..count {
            tokio::time::advance(gap).await;
            detector.data(Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_stream_is_dead_after_the_minimum() {
        let mut detector = detector();
        stream(&mut detector, Duration::from_millis(5), 1000).await;
        assert_eq!(detector.threshold(), 30 * SECOND);
        assert_eq!(detector.deadline(), Instant::now() + 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stream_may_be_silent_for_a_multiple_of_its_gap() {
        let mut detector = detector();
        stream(&mut detector, 20 * SECOND, 5).await;
        assert_eq!(detector.threshold(), 160 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_does_not_make_a_slow_stream_look_busy() {
        let mut detector = detector();
        stream(&mut detector, 20 * SECOND, 5).await;
        stream(&mut detector, Duration::from_millis(1), 1000).await;
        assert!(detector.threshold() > 150 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_gap_fades() {
        let mut detector = detector();
        stream(&mut detector, 60 * SECOND, 1).await;
        stream(&mut detector, SECOND, 2 * 3600).await;
        assert_eq!(detector.threshold(), 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn reconnects_without_events_double_the_threshold_up_to_the_maximum() {
        let mut detector = detector();
        let seconds: Vec<u64> = (0..6)
            .map(|_| {
                detector.gave_up();
                detector.threshold().as_secs()
            })
            .collect();
        assert_eq!(seconds, [60, 120, 240, 480, 600, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn data_ends_the_doubling() {
        let mut detector = detector();
        detector.gave_up();
        detector.gave_up();
        detector.data(Instant::now());
        assert_eq!(detector.threshold(), 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_worker_does_not_count_as_silence() {
        let mut detector = detector();
        tokio::time::advance(3600 * SECOND).await;
        detector.wait_from(Instant::now());
        assert_eq!(detector.deadline(), Instant::now() + 30 * SECOND);
        detector.data(Instant::now());
        assert_eq!(detector.threshold(), 30 * SECOND);
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let limits = SilenceLimits {
            min: 60 * SECOND,
            max: 30 * SECOND,
            factor: 8,
        };
        let refused = SilenceDetector::try_new(limits, Instant::now()).err();
        assert!(matches!(
            refused,
            Some(InvalidSilenceLimits::MaxBelowMin { .. })
        ));
    }

    proptest! {
        #[test]
        fn the_threshold_never_leaves_its_limits(
            steps in prop::collection::vec((0_u64..100_000_000, 0_u8..3), 0..200),
        ) {
            let mut detector = detector();
            let mut now = Instant::now();
            for (millis, step) in steps {
                now += Duration::from_millis(millis);
                match step {
                    0 => detector.data(now),
                    1 => detector.wait_from(now),
                    _ => detector.gave_up(),
                }
                prop_assert!(detector.threshold() >= detector.limits.min);
                prop_assert!(detector.threshold() <= detector.limits.max);
            }
        }
    }
}
