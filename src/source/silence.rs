//! Tells a dead link from a quiet stream, by data alone.
//!
//! Pings prove nothing: peers have seen connections that answered every ping for hours and carried
//! no event. A fixed timeout on data is no better, since a small host is silent for minutes and
//! nothing is wrong. So the timeout follows the source's own habits, and a reconnect that brings
//! nothing new counts as evidence that the stream is quiet.

use std::time::Duration;

use tokio::time::Instant;

/// After this long a gap counts for half: habits change, and one outage is not a habit.
const GAP_HALF_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long a source may be silent before its link is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SilenceLimits {
    /// However busy the source, a silence shorter than this means nothing.
    pub min: Duration,
    /// However quiet the source, a silence of this length is worth a reconnect.
    pub max: Duration,
    /// In between: this many times the longest gap that was seen lately.
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

/// Limits that make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSilenceLimits {
    #[error("the longest silence ({max:?}) is shorter than the shortest ({min:?})")]
    MaxBelowMin { min: Duration, max: Duration },
    #[error("the shortest silence must be longer than zero")]
    ZeroMin,
}

/// Watches one source across its connections. Its owner passes the clock in.
///
/// Call [`wait_from`](Self::wait_from) when a connection is made and whenever reading begins again
/// after a pause of our own, [`data`](Self::data) when frames have come, and
/// [`gave_up`](Self::gave_up) when the link was dropped because [`deadline`](Self::deadline) passed.
#[derive(Clone, Debug)]
pub struct SilenceDetector {
    limits: SilenceLimits,
    waiting_since: Instant,
    /// The longest gap between data on one connection, fading with [`GAP_HALF_LIFE`].
    longest_gap: Duration,
    /// Reconnects in a row that brought nothing new.
    fruitless: u32,
}

impl SilenceDetector {
    /// # Errors
    /// `min` must be longer than zero, and `max` not below it.
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

    /// The socket is being read from now on. Time in which we did not read, for want of a
    /// connection or of budget, says nothing about the source.
    pub fn wait_from(&mut self, now: Instant) {
        self.waiting_since = now;
    }

    /// Frames have come.
    pub fn data(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.waiting_since);
        let fade = 0.5_f64.powf(gap.as_secs_f64() / GAP_HALF_LIFE.as_secs_f64());
        self.longest_gap = gap.max(self.longest_gap.mul_f64(fade));
        self.waiting_since = now;
        self.fruitless = 0;
    }

    /// The link was given up for its silence. Should the next one be as silent, it is given twice
    /// the time, up to the maximum.
    pub fn gave_up(&mut self) {
        self.fruitless = self.fruitless.saturating_add(1);
    }

    /// How long the source may be silent now.
    pub fn threshold(&self) -> Duration {
        let SilenceLimits { min, max, factor } = self.limits;
        let usual = self.longest_gap.saturating_mul(factor).clamp(min, max);
        let patience = 2_u32.saturating_pow(self.fruitless);
        usual.saturating_mul(patience).min(max)
    }

    /// When the link is to be taken for dead, unless data comes before.
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

    /// Data `count` times, `gap` apart.
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
    async fn a_slow_stream_is_given_a_multiple_of_its_own_gap() {
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
    async fn a_long_gap_is_forgotten_in_time() {
        let mut detector = detector();
        stream(&mut detector, 60 * SECOND, 1).await;
        stream(&mut detector, SECOND, 2 * 3600).await;
        assert_eq!(detector.threshold(), 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn reconnects_that_bring_nothing_double_the_threshold_up_to_the_maximum() {
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
    async fn a_pause_of_our_own_is_not_held_against_the_source() {
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
