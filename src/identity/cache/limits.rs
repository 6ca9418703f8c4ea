//! The limits of the cache, and of the requests for it.

use std::time::Duration;

use crate::net::pace::Rate;

/// The limits of [`Identities`](super::Identities).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of cached DIDs. Beyond it, the least recently used one is dropped.
    pub capacity: usize,
    /// How long an identity is valid, unless an event or a signature error indicates a change.
    pub good_for: Duration,
    /// How long the answer is valid that a DID has no identity.
    pub bad_for: Duration,
    /// The first delay before an unanswered DID is looked up again. It doubles after each failure.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// The shortest time between two refreshes of a DID.
    pub refresh_interval: Duration,
    /// Concurrent requests to the PLC directory.
    pub plc_in_flight: usize,
    /// Requests a second to the PLC directory, as the operator wants it. `None` means the courtesy
    /// rate: `per_second`, rising to `most_per_second` while the directory answers.
    pub plc_per_second: Option<u32>,
    /// Concurrent requests to all other hosts together.
    pub in_flight: usize,
    /// Requests a second in the long run, to the PLC directory and to all other hosts.
    pub per_second: u32,
    /// The rate to which requests to the PLC directory rise while it answers. The rate of the others
    /// stays, because outsiders choose the hosts.
    pub most_per_second: u32,
    /// Requests at once after a pause, for each of the two.
    pub burst: u32,
    /// How long a caller waits for an answer before the identity counts as unknown. The request
    /// continues.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            good_for: Duration::from_secs(24 * 3600),
            bad_for: Duration::from_secs(5 * 60),
            retry_min: Duration::from_secs(2),
            retry_max: Duration::from_secs(5 * 60),
            refresh_interval: Duration::from_secs(5 * 60),
            plc_in_flight: 16,
            plc_per_second: None,
            in_flight: 16,
            per_second: 20,
            most_per_second: 100,
            burst: 50,
            timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The rate of requests to the PLC directory. It falls where the directory refuses requests, also
    /// if an operator has set it.
    pub(super) fn plc_rate(&self) -> Rate {
        let (initial, most) = match self.plc_per_second {
            Some(rate) => (rate, rate),
            None => (self.per_second, self.most_per_second.max(self.per_second)),
        };
        Rate {
            initial,
            least: 1,
            most,
            burst: self.burst.min(most),
        }
    }

    /// The delay before the next look-up after `before` earlier failures.
    pub(super) fn retry_delay(&self, before: u32, asked_for: Option<Duration>) -> Duration {
        let doubled = self.retry_min.saturating_mul(1 << before.min(16));
        doubled
            .min(self.retry_max)
            .max(asked_for.unwrap_or_default())
    }
}
