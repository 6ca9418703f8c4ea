//! Whether the stream has begun, so that a search for repositories may begin.
//!
//! A repository is as old as its fetch, and only later events bring it up to date. Until an event is
//! durable, a lost connection begins anew, and what the source has dropped meanwhile is missed
//! without a sign. Afterwards it resumes, or leaves a gap, after which everything is compared. So
//! nothing is searched for before that: unless the source is connected and quiet, or cannot be
//! reached for long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A source that is connected for so long and says nothing is quiet.
const QUIET: Duration = Duration::from_secs(2);
/// A search waits no longer for a source that cannot be reached.
const LONGEST: Duration = Duration::from_secs(120);
/// How often a search that waits looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct StreamStart(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    since: Instant,
    /// Since when the source is connected and says nothing.
    quiet_since: Option<Instant>,
    has_begun: bool,
}

impl StreamStart {
    pub(super) fn waiting_since(now: Instant) -> Self {
        Self(Mutex::new(State {
            since: now,
            quiet_since: None,
            has_begun: false,
        }))
    }

    /// Notes a new connection.
    pub fn note_connected(&self, now: Instant) {
        self.lock().quiet_since = Some(now);
    }

    /// Notes that the source has said something, or that the connection is lost.
    pub fn note_heard_or_lost(&self) {
        self.lock().quiet_since = None;
    }

    /// Notes that an event is durable.
    pub fn note_durable(&self) {
        self.lock().has_begun = true;
    }

    /// When a search looks again whether the stream has begun; `None` if it need not wait.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let state = *self.lock();
        let is_over = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let is_quiet = state.quiet_since.is_some_and(|since| is_over(since, QUIET));
        let need_not_wait = state.has_begun || is_quiet || is_over(state.since, LONGEST);
        (!need_not_wait).then_some(LOOK_INTERVAL)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_waits_until_an_event_is_durable() {
        let now = Instant::now();
        let start = StreamStart::waiting_since(now);
        start.note_connected(now);
        start.note_heard_or_lost();
        let later = now + Duration::from_secs(100);
        assert_eq!(start.wait(later), Some(LOOK_INTERVAL));
        start.note_durable();
        assert_eq!(start.wait(later), None);
    }

    #[test]
    fn a_search_does_not_wait_for_a_source_that_is_connected_and_quiet() {
        let now = Instant::now();
        let start = StreamStart::waiting_since(now);
        start.note_connected(now);
        assert_eq!(start.wait(now + QUIET / 2), Some(LOOK_INTERVAL));
        assert_eq!(start.wait(now + QUIET), None);
        start.note_heard_or_lost();
        assert_eq!(start.wait(now + QUIET), Some(LOOK_INTERVAL));
    }

    #[test]
    fn a_search_does_not_wait_without_end_for_a_source_that_cannot_be_reached() {
        let now = Instant::now();
        let start = StreamStart::waiting_since(now);
        assert_eq!(start.wait(now + LONGEST / 2), Some(LOOK_INTERVAL));
        assert_eq!(start.wait(now + LONGEST), None);
    }
}
