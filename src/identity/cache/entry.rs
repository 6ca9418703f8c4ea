//! What is cached of one DID.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::look_up::LookUp;
use super::{Answer, Limits};
use crate::identity::allowance::Allowance;
use crate::identity::resolve::ResolveError;

/// The cached state of one DID.
#[derive(Default)]
pub(in crate::identity) struct Entry {
    pub(in crate::identity) answer: Option<Answered>,
    /// When the look-up began that found it.
    pub(super) asked_at: Option<Instant>,
    pub(super) failure: Option<Failure>,
    pub(super) refreshed: Option<Instant>,
    pub(super) look_up: Option<Arc<LookUp>>,
    /// It is kept when the rest is forgotten.
    pub(super) allowance: Allowance,
    /// It had a document, so it exists, whatever a server says.
    pub(in crate::identity) had_document: bool,
    /// Since when its server says that there is no such DID.
    pub(super) missing_since: Option<Instant>,
    /// It waits for a refresh that no commit waits for.
    pub(in crate::identity) is_overdue: bool,
}

/// The last definite answer.
pub(in crate::identity) struct Answered {
    pub(in crate::identity) answer: Answer,
    /// Until when it is valid.
    pub(in crate::identity) until: Instant,
    pub(in crate::identity) at: Timestamp,
}

/// Consecutive look-ups without an answer.
pub(super) struct Failure {
    pub(super) error: ResolveError,
    pub(super) count: u32,
    /// When the first of them ended.
    pub(super) since: Instant,
    pub(super) retry: Instant,
}

impl Entry {
    /// Whether [`Identities::known`](super::Identities::known) has an answer without a look-up.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        let answered = self.answer.as_ref();
        answered.is_some_and(|answered| answered.answer.is_ok() || now < answered.until)
    }

    /// An answer that needs no look-up.
    pub(super) fn answer_at(&self, now: Instant) -> Option<Answer> {
        let known = self.answer.as_ref();
        let known = known.filter(|answered| now < answered.until);
        let answer = known.map(|answered| answered.answer.clone());
        answer.or_else(|| self.failure_at(now).map(Err))
    }

    /// How long no look-up is made, because the last one failed or there were too many.
    pub(in crate::identity) fn wait(&self, now: Instant) -> Option<Duration> {
        let of_failure = self.failure.as_ref();
        let of_failure = of_failure.map(|failure| failure.retry.saturating_duration_since(now));
        of_failure.max(self.allowance.wait(now))
    }

    /// The error of the last look-up, if it is too early for another one.
    pub(super) fn failure_at(&self, now: Instant) -> Option<ResolveError> {
        let failure = self.failure.as_ref()?;
        (now < failure.retry).then(|| failure.error.clone())
    }

    pub(super) fn was_refreshed(&self, now: Instant, limits: &Limits) -> bool {
        let is_recent = |at: Instant| now.duration_since(at) < limits.refresh_interval;
        self.refreshed.is_some_and(is_recent)
    }

    pub(super) fn awaits(&self, look_up: &Arc<LookUp>) -> bool {
        let awaited = self.look_up.as_ref();
        awaited.is_some_and(|awaited| Arc::ptr_eq(awaited, look_up))
    }

    /// Takes note of an answer. Returns whether it is definite.
    pub(super) fn learn(&mut self, answer: &Answer, look_up: &LookUp, limits: &Limits) -> bool {
        let now = Instant::now();
        if answer.as_ref().is_err_and(ResolveError::is_not_asked) {
            return false;
        }
        if let Err(error) = answer
            && error.is_unknown()
        {
            let count = self.failure.as_ref().map_or(0, |failure| failure.count);
            let since = self.failure.as_ref().map_or(now, |failure| failure.since);
            self.failure = Some(Failure {
                error: error.clone(),
                count: count.saturating_add(1),
                since,
                retry: now + limits.retry_delay(count, error.retry_after()),
            });
            return false;
        }
        let good_for = match answer {
            Ok(_) => limits.good_for,
            Err(_) => limits.bad_for,
        };
        self.failure = None;
        self.answer = Some(Answered {
            answer: answer.clone(),
            until: now + good_for,
            at: Timestamp::now(),
        });
        self.asked_at = Some(look_up.started_at);
        if look_up.is_refresh {
            self.refreshed = Some(now);
        }
        true
    }
}
