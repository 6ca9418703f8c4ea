//! Compares our clock with the others, and says when it seems to be wrong.

use jiff::SignedDuration;
use serde::Serialize;

/// A smaller difference is no trouble.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// How far others are ahead of our clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClockStatus {
    /// The median of the source's recent events, one for each account; 0 if it is behind.
    pub source_ahead_seconds: i64,
    /// The median of the servers that answered; negative if they are behind, `None` if they are too
    /// few.
    pub hosts_ahead_seconds: Option<i64>,
    /// Why our clock seems to be wrong.
    pub trouble: Option<&'static str>,
}

impl ClockStatus {
    /// An event is never received before its time, so a source that is ahead shows a clock that is
    /// behind. A source that is behind shows nothing, since it may send what is old.
    pub fn of(source_ahead: SignedDuration, hosts_ahead: Option<SignedDuration>) -> Self {
        let trouble = match hosts_ahead {
            Some(ahead) if ahead > TOLERANCE => Some("our clock is behind those of the hosts"),
            Some(ahead) if ahead < -TOLERANCE => Some("our clock is ahead of those of the hosts"),
            None if source_ahead > TOLERANCE => Some("our clock is behind the source's events"),
            _ => None,
        };
        Self {
            source_ahead_seconds: source_ahead.as_secs(),
            hosts_ahead_seconds: hosts_ahead.map(|ahead| ahead.as_secs()),
            trouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(source: i64, hosts: Option<i64>) -> Option<&'static str> {
        let minutes = SignedDuration::from_mins;
        ClockStatus::of(minutes(source), hosts.map(minutes)).trouble
    }

    #[test]
    fn a_clock_that_differs_from_most_others_is_trouble() {
        assert_eq!(trouble(0, None), None);
        assert_eq!(trouble(1, Some(-4)), None);
        assert!(trouble(60, None).unwrap().contains("behind"));
        assert!(trouble(0, Some(60)).unwrap().contains("behind"));
        assert!(trouble(0, Some(-60)).unwrap().contains("ahead"));
    }

    #[test]
    fn accounts_that_are_ahead_are_no_trouble_while_the_hosts_agree_with_us() {
        assert_eq!(trouble(60, Some(0)), None);
    }
}
