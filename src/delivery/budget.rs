//! The byte budget: the only limit on memory.
//!
//! Actor mailboxes are unbounded. Without the budget, the pipeline would fill the memory when the
//! database is slow. The socket is read only while the budget has room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the bytes of everything between the socket and the database.
///
/// Unlike a semaphore, the budget can be overdrawn: frames that were read must be decoded, and
/// decoding makes them larger. An overdraft only pauses reading for longer. It is limited to one
/// batch, plus the growth by decoding of the batches in flight.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    in_flight: AtomicUsize,
    freed: Notify,
}

impl Budget {
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit_bytes,
            in_flight: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    pub fn limit_bytes(&self) -> usize {
        self.limit
    }

    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub fn has_room(&self) -> bool {
        self.in_flight_bytes() < self.limit
    }

    /// Returns as soon as less than the limit is in flight.
    pub async fn room(&self) {
        loop {
            // Registered before the check, so that a charge returned in between is not missed.
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Charges `bytes`, even if there is no room.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.in_flight.fetch_add(bytes, Ordering::AcqRel);
        Charge {
            budget: self.clone(),
            bytes,
        }
    }
}

/// A part of the budget. Dropping it returns the bytes.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Moves `bytes` of this charge, at most all of it, to a new charge.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: self.budget.clone(),
            bytes,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget
            .in_flight
            .fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_charge_is_returned_when_it_is_dropped() {
        let budget = Budget::new(100);
        let charge = budget.charge(60);
        assert_eq!(budget.in_flight_bytes(), 60);
        drop(charge);
        assert_eq!(budget.in_flight_bytes(), 0);
    }

    #[test]
    fn splitting_a_charge_keeps_the_sum() {
        let budget = Budget::new(100);
        let mut whole = budget.charge(60);
        let part = whole.split(25);
        assert_eq!(budget.in_flight_bytes(), 60);
        drop(whole);
        assert_eq!(budget.in_flight_bytes(), 25);
        drop(part);
        assert_eq!(budget.in_flight_bytes(), 0);
    }

    #[tokio::test]
    async fn room_waits_until_enough_is_returned() {
        let budget = Budget::new(100);
        let first = budget.charge(80);
        let second = budget.charge(80);
        let mut room = Box::pin(budget.room());
        assert_eq!(room.as_mut().now_or_never(), None);
        drop(first);
        assert_eq!(room.as_mut().now_or_never(), Some(()));
        drop(second);
    }

    #[tokio::test]
    async fn a_charge_larger_than_the_limit_is_accepted_and_leaves_no_room() {
        let budget = Budget::new(10);
        let oversized = budget.charge(1000);
        assert!(!budget.has_room());
        drop(oversized);
        budget.room().await;
    }
}
