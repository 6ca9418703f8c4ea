//! The pause of a server that refuses requests.
//!
//! One refusal is not a closed door: it may be about one account only. So the first pause is short,
//! and the pauses grow only while refusals follow each other. After a pause one request at a time is
//! made, until one is answered.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first refusal since an answer.
const FIRST: Duration = Duration::from_millis(250);
/// The pause after the second refusal in a row. It doubles from there.
const SECOND: Duration = Duration::from_secs(1);
/// The longest pause that a server did not ask for.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether a server is asked now.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// Refusals since the last answer. A refusal of a request from before the pause does not count
    /// again.
    refusals: u32,
    /// No request is made before then.
    until: Option<Instant>,
    /// The server named the end of the pause.
    is_asked_for: bool,
    /// The number of pauses so far.
    pauses: u64,
    /// The ticket of the only request that is under way, after a pause.
    probe: Option<Ticket>,
}

/// The number of pauses before a request was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// What a request has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted(Ticket),
    /// The end of the pause.
    NotBefore(Instant),
    /// The answer to the one request after the pause.
    BehindProbe,
}

impl Pause {
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        if let Some(until) = self.until.filter(|until| now < *until) {
            return Admission::NotBefore(until);
        }
        let ticket = Ticket(self.pauses);
        if self.refusals > 0 {
            if self.probe.is_some() {
                return Admission::BehindProbe;
            }
            self.probe = Some(ticket);
        }
        Admission::Admitted(ticket)
    }

    /// Notes an answer. It ends the pause, unless the server named the end and the request was made
    /// before that.
    pub(super) fn answer(&mut self, ticket: Ticket) {
        let is_from_before = ticket.0 < self.pauses;
        if is_from_before && self.is_asked_for {
            return;
        }
        self.refusals = 0;
        self.until = None;
        self.is_asked_for = false;
        self.probe = None;
    }

    /// Notes a refusal, with the delay that the server asked for. Returns whether a new pause begins
    /// with it.
    pub(super) fn refuse(
        &mut self,
        ticket: Ticket,
        asked_for: Option<Duration>,
        now: Instant,
    ) -> bool {
        let asked_for = asked_for.filter(|delay| !delay.is_zero());
        let is_new = ticket.0 == self.pauses;
        if is_new {
            self.refusals = self.refusals.saturating_add(1);
            self.pauses += 1;
            self.probe = None;
            self.is_asked_for = false;
            self.until = Some(now + length(self.refusals));
        }
        if let Some(delay) = asked_for {
            let earlier = self.until.filter(|_| self.is_asked_for);
            self.until = Some((now + delay).max(earlier.unwrap_or(now)));
            self.is_asked_for = true;
        }
        is_new
    }

    /// Notes that the request of this ticket is over, answered or not.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if self.probe == Some(ticket) {
            self.probe = None;
        }
    }

    /// How long no request will be made.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let rest = self.until?.saturating_duration_since(now);
        (!rest.is_zero()).then_some(rest)
    }
}

/// The pause after this many refusals in a row.
fn length(refusals: u32) -> Duration {
    match refusals {
        0 | 1 => FIRST,
        more => SECOND.saturating_mul(1 << (more - 2).min(16)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Admits a request as soon as possible, refuses it, and returns the pause that begins.
    fn refused(pause: &mut Pause, now: &mut Instant, asked_for: Option<Duration>) -> Duration {
        *now += pause.rest(*now).unwrap_or_default();
        let Admission::Admitted(ticket) = pause.admit(*now) else {
            panic!("{pause:?}");
        };
        assert!(pause.refuse(ticket, asked_for, *now));
        pause.rest(*now).unwrap()
    }

    #[test]
    fn pauses_grow_while_refusals_follow_each_other_and_begin_anew_after_an_answer() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        let mut pauses = |pause: &mut Pause, count| -> Vec<u128> {
            (0..count)
                .map(|_| refused(pause, &mut now, None).as_millis())
                .collect()
        };
        let grown = [250, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
        assert_eq!(pauses(&mut pause, 8), grown);
        pause.answer(Ticket(8));
        assert_eq!(pauses(&mut pause, 2), [250, 1000]);
    }

    #[test]
    fn after_a_pause_one_request_at_a_time_is_made_until_one_is_answered() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        let rest = refused(&mut pause, &mut now, None);
        now += rest;
        let Admission::Admitted(probe) = pause.admit(now) else {
            panic!("{pause:?}");
        };
        assert_eq!(pause.admit(now), Admission::BehindProbe);
        // It got no answer at all, so another one is made.
        pause.leave(probe);
        assert_eq!(pause.admit(now), Admission::Admitted(probe));
        assert_eq!(pause.admit(now), Admission::BehindProbe);
        pause.answer(probe);
        assert_eq!(pause.admit(now), Admission::Admitted(probe));
        assert_eq!(pause.admit(now), Admission::Admitted(probe));
    }

    #[test]
    fn refusals_of_requests_that_were_under_way_together_are_one() {
        let (mut pause, now) = (Pause::default(), Instant::now());
        let Admission::Admitted(ticket) = pause.admit(now) else {
            panic!("{pause:?}");
        };
        assert!(pause.refuse(ticket, None, now));
        assert!(!pause.refuse(ticket, None, now + millis(100)));
        assert_eq!(pause.rest(now), Some(FIRST));
    }

    #[test]
    fn an_answer_to_an_earlier_request_ends_only_a_pause_that_the_server_did_not_ask_for() {
        for (asked_for, rest) in [(None, None), (Some(millis(3000)), Some(millis(3000)))] {
            let (mut pause, now) = (Pause::default(), Instant::now());
            let Admission::Admitted(ticket) = pause.admit(now) else {
                panic!("{pause:?}");
            };
            pause.refuse(ticket, asked_for, now);
            pause.answer(ticket);
            assert_eq!(pause.rest(now), rest);
        }
    }

    #[test]
    fn the_delay_that_a_server_asks_for_is_kept() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        for _ in 0..10 {
            let rest = refused(&mut pause, &mut now, Some(millis(3000)));
            assert_eq!(rest, millis(3000));
        }
        // No delay at all is no answer to the question.
        let rest = refused(&mut pause, &mut now, Some(Duration::ZERO));
        assert_eq!(rest, LONGEST);
    }
}
