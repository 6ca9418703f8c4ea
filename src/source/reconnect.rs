//! When to dial a source again: backoff that only a healthy connection ends.

use std::time::Duration;

use tokio::time::Instant;

use super::error::RetryAdvice;
use crate::delivery::backoff::Backoff;

/// The reconnects of one source. Its owner passes the clock in.
///
/// A connection counts as healthy once it has carried an event *and* stayed up for a while. A
/// server that accepts, sends an error frame and closes is as good as one that refuses: neither
/// the handshake nor the error frame ends the backoff.
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
    /// Backs off by `backoff`, and begins it anew after a connection that lasted `healthy_after`.
    pub fn new(backoff: Backoff, healthy_after: Duration) -> Self {
        Self {
            backoff,
            healthy_after,
            connection: None,
        }
    }

    /// The handshake is done.
    pub fn connected(&mut self, now: Instant) {
        self.connection = Some(Connection {
            since: now,
            carried_events: false,
        });
    }

    /// Events have come; error frames and `#info` are none.
    pub fn received(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.carried_events = true;
        }
    }

    /// The connection was lost, or never came to be: how long to wait before the next attempt.
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

    /// A connection that lasts for `lasts`, and the seconds to wait after it.
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
    fn an_error_frame_straight_after_the_handshake_makes_no_hot_loop() {
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
