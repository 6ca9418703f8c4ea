//! What the clocks of the servers that are asked say about our own. Nothing is decided by it: it is
//! shown to the operator.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// The number of servers whose latest answer counts. It is odd, so there is a middle one.
const SERVERS: usize = 31;
/// Fewer servers say nothing, because each may be wrong.
const LEAST_SERVERS: usize = 3;

/// The header `Date` of recent answers, compared with our clock. Each server counts once.
#[derive(Debug, Default)]
pub struct HostClocks(Mutex<VecDeque<(String, SignedDuration)>>);

impl HostClocks {
    /// Notes the `Date` of an answer that `server` gave at `now`.
    pub fn note(&self, server: &str, date: Timestamp, now: Timestamp) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|(known, _)| known != server);
        servers.push_back((server.to_owned(), date.duration_since(now)));
        if servers.len() > SERVERS {
            servers.pop_front();
        }
    }

    /// By how much each server that was asked is ahead of our clock.
    pub fn told(&self) -> Vec<(String, SignedDuration)> {
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().cloned().collect()
    }

    /// By how much the servers are ahead of our clock, in the median; negative if they are behind.
    pub fn ahead(&self) -> Option<SignedDuration> {
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() < LEAST_SERVERS {
            return None;
        }
        let mut ahead: Vec<SignedDuration> = servers.iter().map(|(_, ahead)| *ahead).collect();
        ahead.sort_unstable();
        ahead.get(ahead.len() / 2).copied()
    }
}

/// The time in an HTTP header; `None` if it is no date.
pub(crate) fn parse_date(value: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(value.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn no_single_server_says_that_our_clock_is_wrong() {
        let clocks = HostClocks::default();
        for _ in 0..50 {
            clocks.note("wrong.example", second(9000), second(0));
        }
        assert_eq!(clocks.ahead(), None);
        clocks.note("a.example", second(1), second(0));
        clocks.note("b.example", second(-1), second(0));
        assert_eq!(clocks.ahead(), Some(SignedDuration::from_secs(1)));
    }

    #[test]
    fn servers_that_agree_say_by_how_much_it_is_wrong() {
        let clocks = HostClocks::default();
        for server in 0..40 {
            clocks.note(&format!("host{server}"), second(-3600), second(0));
        }
        assert_eq!(clocks.ahead(), Some(SignedDuration::from_secs(-3600)));
    }

    #[test]
    fn a_header_that_is_no_date_says_nothing() {
        let date = parse_date("Mon, 23 Nov 2026 08:01:30 GMT").unwrap();
        assert_eq!(date.to_string(), "2026-11-23T08:01:30Z");
        for value in ["", "soon", "2026-11-23T08:01:30Z"] {
            assert_eq!(parse_date(value), None);
        }
    }
}
