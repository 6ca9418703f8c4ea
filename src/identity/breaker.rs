//! Decides whether the PLC directory works at all. It is pure: it makes no request.
//!
//! A directory that answers wrongly says of every DID that it does not exist, or sends an error or
//! a page instead of a document. One DID without a document proves nothing: anybody can write a DID
//! that does not exist. So the breaker opens only when all look-ups of several DIDs fail for a while,
//! and one of them is a DID that had a document (a *control*), if any is known.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::atproto::syntax::Did;

/// How many DIDs have to fail before the breaker opens.
const SEVERAL: usize = 3;
/// For how long all look-ups have to fail before the breaker opens.
const OPENS_AFTER: Duration = Duration::from_secs(5);

/// The state of the breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Since the last answer, if any look-up failed after it.
    failing: Option<Failing>,
    is_open: bool,
    /// The last DID with a document, and when that came.
    control: Option<(Did, Instant)>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    /// The same moment, for people.
    since_time: Timestamp,
    /// The DIDs whose look-ups failed; at most `SEVERAL`.
    dids: HashSet<Did>,
    includes_control: bool,
    reason: String,
}

/// What follows from a failed look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The breaker stays closed.
    Tolerated,
    /// It would open if the control failed too.
    AskControl(Did),
    /// It opens. The control, if any, shows when the directory works again.
    Opened(Option<Did>),
    /// It is open already.
    StaysOpen,
}

/// Why the directory counts as not working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryFault {
    /// When the first of the failed look-ups ended.
    pub since: Timestamp,
    /// The error of the last one.
    pub reason: String,
}

impl Breaker {
    /// Notes a usable answer. Returns whether it closes the breaker.
    pub(super) fn answered(&mut self, did: &Did, has_document: bool, now: Instant) -> bool {
        self.failing = None;
        if has_document {
            self.control = Some((did.clone(), now));
        }
        std::mem::take(&mut self.is_open)
    }

    /// Notes a look-up without a usable answer. `had_document`: the DID is known to exist.
    pub(super) fn failed(
        &mut self,
        did: &Did,
        had_document: bool,
        reason: &str,
        now: Instant,
    ) -> Verdict {
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: now,
            since_time: Timestamp::now(),
            dids: HashSet::new(),
            includes_control: false,
            reason: String::new(),
        });
        reason.clone_into(&mut failing.reason);
        failing.includes_control |= had_document;
        if failing.dids.len() < SEVERAL {
            failing.dids.insert(did.clone());
        }
        if self.is_open {
            return Verdict::StaysOpen;
        }
        let is_long = now.duration_since(failing.since) >= OPENS_AFTER;
        if failing.dids.len() < SEVERAL || !is_long {
            return Verdict::Tolerated;
        }
        let control = self.control.as_ref().map(|(did, _)| did.clone());
        match control {
            Some(control) if !failing.includes_control => Verdict::AskControl(control),
            control => {
                self.is_open = true;
                Verdict::Opened(control)
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether a document came after `time`.
    pub(super) fn has_answered_since(&self, time: Instant) -> bool {
        let answered = self.control.as_ref().map(|(_, at)| *at);
        answered.is_some_and(|at| at >= time)
    }

    pub(super) fn fault(&self) -> Option<DirectoryFault> {
        let failing = self.failing.as_ref().filter(|_| self.is_open)?;
        Some(DirectoryFault {
            since: failing.since_time,
            reason: failing.reason.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn did(number: usize) -> Did {
        Did::parse(&format!("did:web:{number}.example")).unwrap()
    }

    /// The verdicts on failed look-ups: number of the DID, whether it had a document, and seconds.
    fn verdicts(breaker: &mut Breaker, failures: &[(usize, bool, u64)]) -> Vec<Verdict> {
        let start = Instant::now();
        let failures = failures.iter().map(|(number, had_document, seconds)| {
            let now = start + Duration::from_secs(*seconds);
            breaker.failed(&did(*number), *had_document, "a page", now)
        });
        failures.collect()
    }

    #[test]
    fn it_opens_when_all_look_ups_of_several_dids_fail_for_a_while() {
        let mut breaker = Breaker::default();
        let found = verdicts(
            &mut breaker,
            &[
                (1, false, 0),
                (2, false, 1),
                (3, false, 4),
                (1, false, 5),
                (2, false, 6),
            ],
        );
        let tolerated = Verdict::Tolerated;
        let opened = Verdict::Opened(None);
        let expected = [
            tolerated.clone(),
            tolerated.clone(),
            tolerated,
            opened,
            Verdict::StaysOpen,
        ];
        assert_eq!(found, expected);
        assert_eq!(breaker.fault().unwrap().reason, "a page");
    }

    #[test]
    fn two_dids_or_a_moment_are_not_enough() {
        let mut breaker = Breaker::default();
        verdicts(
            &mut breaker,
            &[(1, false, 0), (2, false, 60), (1, false, 900)],
        );
        assert!(!breaker.is_open());
        let mut breaker = Breaker::default();
        let moment: Vec<_> = (0..100).map(|number| (number, true, 4)).collect();
        verdicts(&mut breaker, &moment);
        assert!(!breaker.is_open());
    }

    #[test]
    fn dids_that_do_not_exist_do_not_open_it_while_a_known_one_is_found() {
        let mut breaker = Breaker::default();
        assert!(!breaker.answered(&did(9), true, Instant::now()));
        let strangers: Vec<_> = (0..8)
            .map(|number| (number, false, 3 * number as u64))
            .collect();
        let found = verdicts(&mut breaker, &strangers);
        assert_eq!(found[2..].to_vec(), vec![Verdict::AskControl(did(9)); 6]);
        assert!(!breaker.is_open());
        let found = verdicts(&mut breaker, &[(9, true, 30)]);
        assert_eq!(found, [Verdict::Opened(Some(did(9)))]);
    }

    #[test]
    fn an_answer_closes_it_and_begins_the_count_anew() {
        let mut breaker = Breaker::default();
        let failures = [(1, false, 0), (2, false, 1), (3, false, 5)];
        verdicts(&mut breaker, &failures);
        assert!(breaker.is_open());
        assert!(breaker.answered(&did(4), false, Instant::now()));
        assert_eq!(breaker.fault(), None);
        verdicts(&mut breaker, &failures[..2]);
        assert!(!breaker.is_open());
    }
}
