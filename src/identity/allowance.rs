//! How often one DID is looked up: a few times at once, and ever less often from then on.
//!
//! The owner of a DID causes its look-ups, by `#identity` events and by signatures that do not fit.
//! So the count outlives every answer, and every event.

use std::time::Duration;

use tokio::time::Instant;

/// Look-ups that need not wait for each other.
const AT_ONCE: u32 = 8;
/// The pause after that. It doubles with each look-up up to `LONGEST`.
const FIRST: Duration = Duration::from_secs(2);
/// It is short, because it also holds up an account that really changes often.
const LONGEST: Duration = Duration::from_secs(15);
/// After so long without a look-up the count begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// The look-ups of one DID.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    last: Option<Instant>,
    count: u32,
}

impl Allowance {
    /// How long no look-up is made; `None` if one may be made now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let beyond = self.count.checked_sub(AT_ONCE)?;
        let pause = FIRST.saturating_mul(1 << beyond.min(16)).min(LONGEST);
        let rest = (self.last? + pause).saturating_duration_since(now);
        (!rest.is_zero()).then_some(rest)
    }

    /// Notes that a look-up begins.
    pub(super) fn spend(&mut self, now: Instant) {
        if !self.is_recent(now, FORGOTTEN_AFTER) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// Notes that the server was not asked.
    pub(super) fn refund(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// Whether a look-up began within `period`.
    pub(super) fn is_recent(&self, now: Instant, period: Duration) -> bool {
        self.last
            .is_some_and(|last| now.saturating_duration_since(last) < period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_look_ups_follow_each_other_and_begin_anew_after_a_quiet_time() {
        let (mut allowance, mut now) = (Allowance::default(), Instant::now());
        let mut pauses = |allowance: &mut Allowance, look_ups| -> Vec<u64> {
            (0..look_ups)
                .map(|_| {
                    let pause = allowance.wait(now).unwrap_or_default();
                    now += pause;
                    allowance.spend(now);
                    pause.as_secs()
                })
                .collect()
        };
        assert_eq!(
            pauses(&mut allowance, 14),
            [0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 8, 15, 15, 15]
        );
        now += FORGOTTEN_AFTER;
        allowance.spend(now);
        assert_eq!(allowance.wait(now), None);
    }

    #[test]
    fn a_look_up_that_was_not_made_does_not_count() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for _ in 0..100 {
            allowance.spend(now);
            allowance.refund();
        }
        assert_eq!(allowance.wait(now), None);
    }
}
