//! The time by which times and revs of others are judged.
//!
//! Our own clock may be wrong, and so may the clock of any account. So a value counts as ahead only
//! if it is ahead of both: of our clock, and of the median of what the source's recent events say.
//! Spec: <https://atproto.com/specs/sync> calls the field `time` of an event informal.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::atproto::syntax::Did;
use crate::atproto::verify::MAX_AHEAD;

/// The most by which the source's events can correct our clock. Beyond it accounts that agree with
/// each other would be believed too much: a value that they made credible freezes nothing for
/// longer than this.
pub const MAX_LEAD: SignedDuration = SignedDuration::from_hours(24);

/// The number of accounts whose latest event counts. Odd, so that there is a median.
const VOTES: usize = 31;

/// One account alone never corrects our clock.
const LEAST_VOTES: usize = 2;

/// The later of our clock and the median time of the source's recent events, where each account has
/// one vote.
#[derive(Debug, Default)]
pub struct SourceClock {
    hasher: RandomState,
    votes: Mutex<VecDeque<Vote>>,
    /// By how many milliseconds the source is ahead of our clock; never below 0.
    lead: AtomicI64,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    account: u64,
    /// How many milliseconds the event was ahead of our clock when it arrived.
    ahead: i64,
}

impl SourceClock {
    /// Notes the time of an event that arrived just now.
    pub fn note(&self, account: &Did, time: Timestamp) {
        self.note_at(account, time, Timestamp::now());
    }

    fn note_at(&self, account: &Did, time: Timestamp, received_at: Timestamp) {
        let vote = Vote {
            account: self.hasher.hash_one(account.as_str()),
            ahead: (time.as_millisecond()).saturating_sub(received_at.as_millisecond()),
        };
        let mut votes = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
        votes.retain(|other| other.account != vote.account);
        if votes.len() >= VOTES {
            votes.pop_front();
        }
        votes.push_back(vote);
        self.lead.store(lead(&votes), Ordering::Relaxed);
    }

    /// The later of our clock and the source's.
    pub fn now(&self) -> Timestamp {
        self.correct(Timestamp::now())
    }

    /// A time or a rev that is later than this is not credible.
    pub fn latest_credible(&self) -> Timestamp {
        let now = self.now();
        now.checked_add(MAX_AHEAD).unwrap_or(now)
    }

    /// By how much the source is ahead of our clock: zero, or up to [`MAX_LEAD`].
    pub fn lead(&self) -> SignedDuration {
        SignedDuration::from_millis(self.lead.load(Ordering::Relaxed))
    }

    fn correct(&self, ours: Timestamp) -> Timestamp {
        ours.checked_add(self.lead()).unwrap_or(ours)
    }
}

/// The lower median of `votes`, within its limits.
fn lead(votes: &VecDeque<Vote>) -> i64 {
    if votes.len() < LEAST_VOTES {
        return 0;
    }
    let mut ahead: Vec<i64> = votes.iter().map(|vote| vote.ahead).collect();
    let middle = (ahead.len() - 1) / 2;
    let (_, median, _) = ahead.select_nth_unstable(middle);
    let most = i64::try_from(MAX_LEAD.as_millis()).unwrap_or(i64::MAX);
    (*median).clamp(0, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn did(number: usize) -> Did {
        Did::parse(&format!("did:plc:account{number}")).unwrap()
    }

    /// The lead after one event of each of these accounts, so many seconds ahead of our clock.
    fn lead_after(events: impl IntoIterator<Item = (usize, i64)>) -> i64 {
        let clock = SourceClock::default();
        for (account, ahead) in events {
            clock.note_at(&did(account), second(ahead), second(0));
        }
        clock.lead().as_secs()
    }

    #[test]
    fn events_of_several_accounts_correct_a_clock_that_is_behind() {
        assert_eq!(lead_after([(1, HOUR), (2, HOUR)]), HOUR);
        let clock = SourceClock::default();
        for account in 0..9 {
            clock.note_at(&did(account), second(HOUR), second(0));
        }
        assert_eq!(clock.correct(second(60)), second(HOUR + 60));
    }

    /// Holds invariant 9.
    #[test]
    fn one_account_corrects_nothing_however_often_it_speaks() {
        assert_eq!(lead_after([(1, HOUR); 100]), 0);
        let others = (0..15).map(|account| (account, 0));
        assert_eq!(lead_after(others.chain([(99, HOUR); 100])), 0);
    }

    #[test]
    fn a_source_that_is_behind_our_clock_changes_nothing() {
        assert_eq!(lead_after((0..20).map(|account| (account, -72 * HOUR))), 0);
    }

    /// Holds invariant 9.
    #[test]
    fn accounts_that_agree_on_a_far_future_move_it_by_a_day_at_most() {
        let far = 60 * 365 * 24 * HOUR;
        assert_eq!(lead_after((0..40).map(|account| (account, far))), 24 * HOUR);
    }

    #[test]
    fn of_many_accounts_the_most_recent_count() {
        let honest = (0..100).map(|account| (account, 0));
        let later = (100..131).map(|account| (account, HOUR));
        assert_eq!(lead_after(honest.chain(later)), HOUR);
    }
}
