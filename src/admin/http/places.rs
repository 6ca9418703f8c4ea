//! The places of open connections, and who has to go when there are no more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The time that a client has to send its request, although another waits for its place.
const REQUEST_TIME: Duration = Duration::from_millis(50);
/// The delay before another look at connections that were not read from yet.
const NEXT_LOOK: Duration = Duration::from_millis(1);
/// How long an answer may take while others wait for its place.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A fixed number of places for connections.
///
/// When all are taken and another connection comes, the oldest one whose request is not complete
/// has to go, unless it has just come, or was not read from yet. So a client that sends its request
/// at once is answered, however many clients send theirs slowly.
#[derive(Debug)]
pub(in crate::admin) struct Places {
    most: usize,
    open: Mutex<Open>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// In the order of their accept.
    places: BTreeMap<u64, Arc<Place>>,
}

/// The place of one connection.
#[derive(Debug)]
pub(in crate::admin) struct Place {
    taken_at: Instant,
    /// It was read from, and there was nothing to read.
    is_waiting: AtomicBool,
    is_request_complete: AtomicBool,
    /// Its answer has no end. Their number is limited otherwise.
    is_stream: AtomicBool,
    closed: CancellationToken,
}

/// Gives the place back when it is dropped.
#[derive(Debug)]
pub(in crate::admin) struct PlaceGuard {
    number: u64,
    place: Arc<Place>,
    places: Arc<Places>,
}

impl Places {
    pub(in crate::admin) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: Mutex::default(),
            released: Notify::new(),
        })
    }

    /// Takes a place. If all are taken, it is that of the oldest request that is not complete, or
    /// of an answer that takes too long.
    pub(in crate::admin) async fn take(self: &Arc<Self>) -> PlaceGuard {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on a release is not missed.
            released.as_mut().enable();
            if let Some(guard) = self.try_take() {
                return guard;
            }
            tokio::select! {
                () = released => {}
                () = sleep_until(self.next_look()) => {}
            }
        }
    }

    /// Closes the oldest connection whose request is not complete, if there is one.
    pub(in crate::admin) fn close_oldest_incomplete(&self) {
        self.close_oldest(|place| !place.is_complete());
    }

    fn try_take(self: &Arc<Self>) -> Option<PlaceGuard> {
        let now = Instant::now();
        if self.open().places.len() >= self.most {
            self.close_oldest(|place| place.has_to_go(now));
        }
        let mut open = self.open();
        if open.places.len() >= self.most {
            return None;
        }
        let place = Arc::new(Place {
            taken_at: now,
            is_waiting: AtomicBool::new(false),
            is_request_complete: AtomicBool::new(false),
            is_stream: AtomicBool::new(false),
            closed: CancellationToken::new(),
        });
        let number = open.next;
        open.next += 1;
        open.places.insert(number, place.clone());
        Some(PlaceGuard {
            number,
            place,
            places: self.clone(),
        })
    }

    fn close_oldest(&self, may_go: impl Fn(&Place) -> bool) {
        let mut open = self.open();
        let oldest = open.places.iter().find(|(_, place)| may_go(place));
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return;
        };
        if let Some(place) = open.places.remove(&number) {
            place.closed.cancel();
        }
    }

    /// When a connection may have to go.
    fn next_look(&self) -> Instant {
        let open = self.open();
        let times = open.places.values().map(|place| place.goes_at());
        let soon = Instant::now() + NEXT_LOOK;
        times.min().map_or(soon, |earliest| earliest.max(soon))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.open().places.len()
    }
}

impl Place {
    /// To be called when there is nothing to read.
    pub(super) fn note_waiting(&self) {
        self.is_waiting.store(true, Ordering::Relaxed);
    }

    fn is_complete(&self) -> bool {
        self.is_request_complete.load(Ordering::Relaxed)
    }

    fn has_to_go(&self, now: Instant) -> bool {
        let was_heard = self.is_complete() || self.is_waiting.load(Ordering::Relaxed);
        was_heard && !self.is_stream() && now >= self.goes_at()
    }

    fn goes_at(&self) -> Instant {
        let time = match self.is_complete() {
            true => ANSWER_TIME,
            false => REQUEST_TIME,
        };
        self.taken_at + time
    }

    /// To be called when the request was read.
    pub(in crate::admin) fn complete_request(&self) {
        self.is_request_complete.store(true, Ordering::Relaxed);
    }

    /// To be called when an answer without end begins.
    pub(in crate::admin) fn begin_stream(&self) {
        self.is_stream.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream.load(Ordering::Relaxed)
    }

    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

impl PlaceGuard {
    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }
}

impl Drop for PlaceGuard {
    fn drop(&mut self) {
        // It is not there any more if the connection was closed for another one.
        self.places.open().places.remove(&self.number);
        self.places.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(guard: &PlaceGuard) -> bool {
        guard.place().closed().is_cancelled()
    }

    /// Holds invariant 12.5.
    #[tokio::test(start_paused = true)]
    async fn the_oldest_incomplete_request_makes_room_and_complete_ones_stay() {
        let places = Places::new(4);
        let (answered, unread, slow, slower) = (
            places.take().await,
            places.take().await,
            places.take().await,
            places.take().await,
        );
        answered.place().complete_request();
        slow.place().note_waiting();
        slower.place().note_waiting();
        let begin = Instant::now();
        let _next = places.take().await;
        assert_eq!(
            [&answered, &unread, &slow, &slower].map(is_closed),
            [false, false, true, false]
        );
        assert_eq!(places.taken(), 4);
        assert_eq!(begin.elapsed(), REQUEST_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_makes_room_after_a_second() {
        let places = Places::new(1);
        let first = places.take().await;
        first.place().complete_request();
        let begin = Instant::now();
        let _second = places.take().await;
        assert!(is_closed(&first));
        assert_eq!(begin.elapsed(), ANSWER_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_place_is_taken_without_closing_another() {
        let places = Places::new(1);
        let first = places.take().await;
        first.place().complete_request();
        let begin = Instant::now();
        let (second, ()) = tokio::join!(places.take(), async { drop(first) });
        assert!(!is_closed(&second));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
