//! The PLC directory as the cache uses it: when it is asked, and whether its answers are believed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, DirectoryFault, Verdict};
use super::document::Identity;
use super::resolve::{Invalid, ResolveError, Unavailable};
use crate::atproto::syntax::Did;
use crate::net::http_client::FetchError;
use crate::net::pace::Rate;
use crate::net::request_limiter::{Permit, RequestLimiter};

/// A look-up does not wait in place for the end of a pause that is longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A DID without a document is believed to be gone only after the directory has had this time to
/// change its answer.
pub(super) const DOUBTED_FOR: Duration = Duration::from_secs(10 * 60);

/// The limits and the state of the PLC directory.
pub(super) struct Directory {
    pub(super) limiter: RequestLimiter,
    breaker: Mutex<Breaker>,
}

/// What follows from an answer of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    Nothing,
    /// This DID, which had a document, is looked up too.
    AskControl(Did),
    /// The directory works again.
    Recovered,
}

impl Directory {
    pub(super) fn new(slots: usize, rate: Rate) -> Self {
        Self {
            limiter: RequestLimiter::new(slots, rate),
            breaker: Mutex::default(),
        }
    }

    /// The rest of a pause that is too long to wait for it in place.
    pub(super) fn long_pause(&self) -> Option<Duration> {
        let rest = self.limiter.paused_for();
        rest.filter(|rest| *rest > PATIENCE)
    }

    pub(super) fn fault(&self) -> Option<DirectoryFault> {
        self.breaker().fault()
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// Notes the answer to a look-up. `had_document`: the DID is known to exist.
    pub(super) fn note(
        &self,
        did: &Did,
        had_document: bool,
        answer: &Result<Identity, ResolveError>,
        permit: &Permit<'_>,
    ) -> Consequence {
        let now = Instant::now();
        let error = match answer {
            // A document of another DID, or one without a key, is an answer too.
            Ok(_) | Err(ResolveError::Invalid(Invalid::Document(_))) => {
                permit.answered();
                let has_closed = self.breaker().answered(did, answer.is_ok(), now);
                if !has_closed {
                    return Consequence::Nothing;
                }
                return Consequence::Recovered;
            }
            // The directory was not asked.
            Err(ResolveError::Invalid(Invalid::Did(_))) => return Consequence::Nothing,
            Err(error) if error.is_not_asked() => return Consequence::Nothing,
            Err(error) => error,
        };
        let verdict = self
            .breaker()
            .failed(did, had_document, &error.to_string(), now);
        // While the breaker is open, the directory is asked by one look-up at a time, ever less
        // often.
        let is_open = matches!(verdict, Verdict::Opened(_) | Verdict::StaysOpen);
        let refusal = refusal(error);
        if is_open || refusal.is_some() {
            permit.refused(refusal.flatten());
        }
        match verdict {
            Verdict::Tolerated | Verdict::StaysOpen => Consequence::Nothing,
            Verdict::AskControl(control) => Consequence::AskControl(control),
            Verdict::Opened(control) => {
                control.map_or(Consequence::Nothing, Consequence::AskControl)
            }
        }
    }

    /// Whether the directory is believed that it has no document of a DID that never had one, as it
    /// has said since `missing_since`: it has found others meanwhile.
    pub(super) fn is_believed_missing(&self, missing_since: Instant, now: Instant) -> bool {
        let is_old = now.duration_since(missing_since) >= DOUBTED_FOR;
        let breaker = self.breaker();
        is_old && !breaker.is_open() && breaker.has_answered_since(missing_since)
    }

    /// Whether the directory has found a document since `time`, and works.
    pub(super) fn has_worked_since(&self, time: Instant) -> bool {
        let breaker = self.breaker();
        !breaker.is_open() && breaker.has_answered_since(time)
    }

    /// Whether the directory is believed that a DID is tombstoned: it has found others lately.
    pub(super) fn is_believed_tombstoned(&self, now: Instant) -> bool {
        let breaker = self.breaker();
        let lately = now.checked_sub(DOUBTED_FOR).unwrap_or(now);
        !breaker.is_open() && breaker.has_answered_since(lately)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Every state of it is valid by itself.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The delay that the directory asked for, if it refused the request for now.
fn refusal(error: &ResolveError) -> Option<Option<Duration>> {
    match error {
        ResolveError::Unavailable(Unavailable::Fetch(FetchError::Status {
            status,
            retry_after,
        })) if *status == 429 || retry_after.is_some() => Some(*retry_after),
        _ => None,
    }
}
