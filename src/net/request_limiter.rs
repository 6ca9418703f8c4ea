//! Limits the requests to one server: how many are under way, how many begin in a second, and
//! whether any is made at all.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::pace::{Pace, Rate};
use super::pause::{Admission, Pause, Ticket};
use super::slots::{Rank, Slot, Slots, Urgency};

/// Admits requests one by one. What became of them decides about the next ones.
#[derive(Debug)]
pub(crate) struct RequestLimiter {
    slots: Arc<Slots>,
    state: Mutex<State>,
    /// Notified when a pause begins or ends.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    pause: Pause,
}

/// The permission to make one request. The caller drops it after the answer.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limiter: &'a RequestLimiter,
    ticket: Ticket,
    _slot: Slot,
}

impl RequestLimiter {
    pub(crate) fn new(slots: usize, rate: Rate) -> Self {
        Self {
            slots: Slots::new(slots),
            state: Mutex::new(State {
                pace: Pace::new(rate),
                pause: Pause::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// Waits until a request may be made. First come, first served.
    pub(crate) async fn enter(&self) -> Permit<'_> {
        self.enter_as(Urgency::Awaited).await
    }

    /// Like [`Self::enter`], but before those of a lower rank.
    pub(crate) async fn enter_as(&self, rank: impl Into<Rank>) -> Permit<'_> {
        let slot = self.slots.acquire(rank).await;
        let wait = self.state().pace.reserve(Instant::now());
        sleep(wait).await;
        loop {
            let mut changed = pin!(self.changed.notified());
            // From now on no change is missed.
            changed.as_mut().enable();
            let admission = self.state().pause.admit(Instant::now());
            match admission {
                Admission::Admitted(ticket) => {
                    return Permit {
                        limiter: self,
                        ticket,
                        _slot: slot,
                    };
                }
                Admission::NotBefore(until) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = changed => {}
                },
                Admission::BehindProbe => changed.await,
            }
        }
    }

    /// How long no request will be made, because the server refused some; `None` if it is not so.
    pub(crate) fn paused_for(&self) -> Option<Duration> {
        self.state().pause.rest(Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock can panic between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Notes that the server served the request. A pause ends, and the rate rises.
    pub(crate) fn answered(&self) {
        let mut state = self.limiter.state();
        state.pause.answer(self.ticket);
        state.pace.rise();
        drop(state);
        self.limiter.changed.notify_waiters();
    }

    /// Notes that the server refused the request for now. A pause begins, and the rate falls.
    pub(crate) fn refused(&self, asked_for: Option<Duration>) {
        let mut state = self.limiter.state();
        let is_new = state.pause.refuse(self.ticket, asked_for, Instant::now());
        if is_new {
            state.pace.fall();
        }
        drop(state);
        self.limiter.changed.notify_waiters();
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.limiter.state().pause.leave(self.ticket);
        self.limiter.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn limiter(slots: usize) -> RequestLimiter {
        RequestLimiter::new(slots, Rate::fixed(1000, 1000))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_free_again_after_its_request() {
        let limiter = limiter(1);
        let turn = limiter.enter().await;
        let second = timeout(Duration::from_secs(3600), limiter.enter()).await;
        assert!(second.is_err());
        drop(turn);
        limiter.enter().await;
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_are_made_when_the_pause_ends() {
        let limiter = limiter(3);
        let start = Instant::now();
        limiter.enter().await.refused(Some(Duration::from_secs(3)));
        limiter.enter().await.answered();
        limiter.enter().await.answered();
        assert_eq!(start.elapsed().as_millis(), 3000);
        assert_eq!(limiter.paused_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_the_pause_for_all_that_wait() {
        let limiter = limiter(4);
        let under_way = limiter.enter().await;
        limiter.enter().await.refused(None);
        assert!(limiter.paused_for().is_some());
        let start = Instant::now();
        let (_, _, ()) = tokio::join!(limiter.enter(), limiter.enter(), async {
            under_way.answered();
        });
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_everything_is_asked_ever_less_often() {
        let limiter = limiter(16);
        let mut requests = 0;
        let asking = async {
            loop {
                limiter.enter().await.refused(None);
                requests += 1;
            }
        };
        assert!(timeout(Duration::from_secs(60), asking).await.is_err());
        assert_eq!(requests, 7);
    }
}
