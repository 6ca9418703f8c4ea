//! Decides when to dial a source again. Only a healthy connection resets the backoff.

use std::time::Duration;

use tokio::time::Instant;

use super::error::RetryAdvice;
use crate::delivery::backoff::Backoff;

/// The reconnects of one source. The caller provides the time.
///
/// A connection counts as healthy after it has delivered an event *and* stayed up for a while. A
/// server that accepts, sends an error frame and closes is no better than one that refuses. So
/// neither the handshake nor an error frame resets the backoff.
#[derive(Clone, Debug)]
pub struct Reconnect {
    backoff: Backoff,
    healthy_after: Duration,
    connection: Option<Connection>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    since: Instant,
    carried_events: bool,
}

impl Reconnect {
    /// Uses `backoff`, and resets it after a connection that lasted `healthy_after`.
    pub fn new(backoff: Backoff, healthy_after: Duration) -> Self {
        Self {
            backoff,
            healthy_after,
            connection: None,
        }
    }

    /// Call after the handshake.
    pub fn connected(&mut self, now: Instant) {
        self.connection = Some(Connection {
            since: now,
            carried_events: false,
        });
    }

    /// Call when events have arrived. Error frames and `#info` do not count.
    pub fn received(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.carried_events = true;
        }
    }

    /// The connection was lost or could not be made. Returns the delay before the next attempt.
    pub fn next_delay(&mut self, now: Instant, advice: RetryAdvice) -> Duration {
        if self
            .connection
            .take()
            .is_some_and(|connection| self.was_healthy(connection, now))
        {
            self.backoff.reset();
        }
        match advice {
            RetryAdvice::AtCeiling => self.backoff.ceiling_delay(),
            RetryAdvice::Backoff => self.backoff.next_delay(),
            RetryAdvice::NotBefore(delay) => self.backoff.next_delay().max(delay),
        }
    }

    fn was_healthy(&self, connection: Connection, now: Instant) -> bool {
        let lasted = now.saturating_duration_since(connection.since);
        connection.carried_events && lasted >= self.healthy_after
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reconnect() -> Reconnect {
        let rng = Rng::with_seed(0);
        let backoff = Backoff::try_new(SECOND, 60 * SECOND, 0.0, rng).unwrap();
        Reconnect::new(backoff, 10 * SECOND)
    }

    /// The seconds to wait after a connection that lasted for `lasts`.
    fn delay_after(reconnect: &mut Reconnect, lasts: Duration, carries_events: bool) -> u64 {
        let now = Instant::now();
        reconnect.connected(now);
        if carries_events {
            reconnect.received();
        }
        let delay = reconnect.next_delay(now + lasts, RetryAdvice::Backoff);
        delay.as_secs()
    }

    #[test]
    fn a_connection_that_proved_healthy_ends_the_backoff() {
        let mut reconnect = reconnect();
        for _ in 0..5 {
            reconnect.next_delay(Instant::now(), RetryAdvice::Backoff);
        }
        assert_eq!(delay_after(&mut reconnect, 10 * SECOND, true), 1);
    }

    #[test]
    fn an_error_frame_right_after_the_handshake_causes_no_hot_loop() {
        let mut reconnect = reconnect();
        let delays: Vec<u64> = (0..8)
            .map(|_| delay_after(&mut reconnect, Duration::ZERO, false))
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn events_alone_do_not_end_the_backoff() {
        let mut reconnect = reconnect();
        delay_after(&mut reconnect, 9 * SECOND, true);
        assert_eq!(delay_after(&mut reconnect, 9 * SECOND, true), 2);
    }

    #[test]
    fn a_long_silent_connection_does_not_end_the_backoff() {
        let mut reconnect = reconnect();
        delay_after(&mut reconnect, 600 * SECOND, false);
        assert_eq!(delay_after(&mut reconnect, 600 * SECOND, false), 2);
    }

    #[test]
    fn a_healthy_connection_counts_once() {
        let mut reconnect = reconnect();
        delay_after(&mut reconnect, 10 * SECOND, true);
        let delay = reconnect.next_delay(Instant::now() + 3600 * SECOND, RetryAdvice::Backoff);
        assert_eq!(delay, 2 * SECOND);
    }

    #[test]
    fn a_refusal_is_retried_only_at_the_ceiling() {
        let delay = reconnect().next_delay(Instant::now(), RetryAdvice::AtCeiling);
        assert_eq!(delay, 60 * SECOND);
    }

    #[test]
    fn the_server_may_ask_for_more_time_than_the_backoff_but_not_for_less() {
        let mut reconnect = reconnect();
        let mut delay = |seconds: u32| {
            reconnect.next_delay(Instant::now(), RetryAdvice::NotBefore(seconds * SECOND))
        };
        assert_eq!(delay(90), 90 * SECOND);
        assert_eq!(delay(0), 2 * SECOND);
    }
}
