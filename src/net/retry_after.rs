//! The HTTP header `Retry-After` (RFC 9110, section 10.2.3).

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// The longest delay that a server can request. A mistaken or hostile answer must not stop the
/// worker until the server no longer holds the missed events.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The delay requested by the header's `value`, which is in seconds or a date; at most 15 minutes.
/// `None` if it is neither.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let delay = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number with too many digits is still valid, and means a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let at = DateTimeParser::new().parse_timestamp(value).ok()?;
        // A date in the past requests no delay.
        Duration::try_from(at.duration_since(now)).unwrap_or_default()
    };
    Some(delay.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(value: &str) -> Option<u64> {
        let now = "2026-11-23T08:00:00Z".parse().unwrap();
        parse(value, now).map(|delay| delay.as_secs())
    }

    #[test]
    fn seconds_are_taken_as_they_are() {
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120 "), Some(120));
    }

    #[test]
    fn a_date_is_taken_relative_to_now() {
        assert_eq!(seconds("Mon, 23 Nov 2026 08:01:30 GMT"), Some(90));
        assert_eq!(seconds("Mon, 23 Nov 2026 07:00:00 GMT"), Some(0));
    }

    #[test]
    fn a_long_delay_is_capped() {
        assert_eq!(seconds("86400"), Some(900));
        assert_eq!(seconds("99999999999999999999999"), Some(900));
        assert_eq!(seconds("Tue, 24 Nov 2026 08:00:00 GMT"), Some(900));
    }

    #[test]
    fn an_invalid_value_is_no_delay() {
        for value in ["", "soon", "-5", "1.5"] {
            assert_eq!(seconds(value), None, "{value:?}");
        }
    }
}
