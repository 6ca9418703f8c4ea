//! Slots for requests, of which urgent callers get theirs first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Every so many grants the least urgent caller comes first, so that a flood of urgent ones does not
/// keep it waiting for ever.
const TURN: u64 = 4;

/// How much a request matters. The first ones are the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Work waits for it, and it is the first of its kind for a while.
    First,
    /// Work waits for it.
    Awaited,
    /// Nothing waits for it.
    Background,
}

/// The place of a caller in the queue: by its urgency, and then by how much work waits for it. Among
/// equals the first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    urgency: Urgency,
    /// The number of binary digits of the work, so that a caller that moves forward with growing work
    /// moves seldom.
    work: Reverse<u32>,
}

impl Rank {
    pub(crate) fn new(urgency: Urgency, work: u64) -> Self {
        Self {
            urgency,
            work: Reverse(u64::BITS - work.leading_zeros()),
        }
    }
}

impl From<Urgency> for Rank {
    fn from(urgency: Urgency) -> Self {
        Self::new(urgency, 0)
    }
}

/// A number of slots, and the callers that wait for one: in the order of their ranks.
#[derive(Debug)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    grants: u64,
    next_number: u64,
    /// No queue is empty.
    waiting: BTreeMap<Rank, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// An occupied slot. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

/// A caller that waits. If it is dropped after the grant, the slot goes to the next one.
struct Waiting {
    slots: Arc<Slots>,
    number: u64,
    rank: Rank,
    grant: oneshot::Receiver<()>,
    is_taken: bool,
}

impl Slots {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: slots,
            grants: 0,
            next_number: 0,
            waiting: BTreeMap::new(),
        })))
    }

    /// Waits for a slot. Dropping the future gives the place in the queue up.
    pub(crate) async fn acquire(self: &Arc<Self>, rank: impl Into<Rank>) -> Slot {
        let rank = rank.into();
        let mut waiting = {
            let mut state = self.state();
            // A free slot means that no caller waits.
            if state.free > 0 {
                state.free -= 1;
                return Slot(Arc::clone(self));
            }
            let (sender, grant) = oneshot::channel();
            let number = state.next_number;
            state.next_number += 1;
            let queue = state.waiting.entry(rank).or_default();
            queue.push_back((number, sender));
            Waiting {
                slots: Arc::clone(self),
                number,
                rank,
                grant,
                is_taken: false,
            }
        };
        // The sender is dropped only with a grant, or by `Waiting` itself.
        let _granted = (&mut waiting.grant).await;
        waiting.is_taken = true;
        Slot(Arc::clone(self))
    }

    fn release(&self) {
        let mut state = self.state();
        while let Some(grant) = state.next() {
            if grant.send(()).is_ok() {
                return;
            }
        }
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock can panic between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        self.grants += 1;
        let is_turn_of_last = self.grants.is_multiple_of(TURN);
        let mut queue = match is_turn_of_last {
            true => self.waiting.last_entry(),
            false => self.waiting.first_entry(),
        }?;
        let next = queue.get_mut().pop_front();
        if queue.get().is_empty() {
            queue.remove();
        }
        next.map(|(_, grant)| grant)
    }

    /// Removes a caller that gave up, if it still waits.
    fn remove(&mut self, rank: Rank, number: u64) {
        let Some(queue) = self.waiting.get_mut(&rank) else {
            return;
        };
        queue.retain(|(waiting, _)| *waiting != number);
        if queue.is_empty() {
            self.waiting.remove(&rank);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        self.slots.state().remove(self.rank, self.number);
        // From now on no grant arrives, so one that has arrived is passed on.
        self.grant.close();
        if self.grant.try_recv().is_ok() {
            self.slots.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    /// A caller that has begun to wait.
    fn waits(
        slots: &Arc<Slots>,
        rank: impl Into<Rank> + Send + 'static,
    ) -> BoxFuture<'static, Slot> {
        let slots = Arc::clone(slots);
        let mut waiting = async move { slots.acquire(rank).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none());
        waiting
    }

    #[test]
    fn an_urgent_caller_comes_before_those_that_came_earlier() {
        let slots = Slots::new(1);
        let slot = slots.acquire(Urgency::Background).now_or_never().unwrap();
        let mut background = waits(&slots, Urgency::Background);
        let mut awaited = waits(&slots, Urgency::Awaited);
        let mut first = waits(&slots, Urgency::First);
        drop(slot);
        let slot = (&mut first).now_or_never().unwrap();
        assert!((&mut awaited).now_or_never().is_none());
        drop(slot);
        let slot = (&mut awaited).now_or_never().unwrap();
        assert!((&mut background).now_or_never().is_none());
        drop(slot);
        assert!((&mut background).now_or_never().is_some());
    }

    #[test]
    fn of_equally_urgent_callers_the_one_with_most_work_comes_first() {
        let slots = Slots::new(1);
        let slot = slots.acquire(Urgency::First).now_or_never().unwrap();
        let mut quiet = waits(&slots, Rank::new(Urgency::First, 1));
        let mut hot = waits(&slots, Rank::new(Urgency::First, 900));
        let mut less_urgent = waits(&slots, Rank::new(Urgency::Awaited, 1000));
        drop(slot);
        let slot = (&mut hot).now_or_never().unwrap();
        assert!((&mut quiet).now_or_never().is_none());
        drop(slot);
        let slot = (&mut quiet).now_or_never().unwrap();
        assert!((&mut less_urgent).now_or_never().is_none());
        drop(slot);
        assert!((&mut less_urgent).now_or_never().is_some());
    }

    #[test]
    fn a_flood_of_urgent_callers_does_not_keep_the_others_waiting_for_ever() {
        let slots = Slots::new(1);
        let slot = slots.acquire(Urgency::First).now_or_never().unwrap();
        let mut background = waits(&slots, Urgency::Background);
        let flood: Vec<_> = (0..20).map(|_| waits(&slots, Urgency::First)).collect();
        drop(slot);
        let before = flood
            .into_iter()
            .take_while(|_| (&mut background).now_or_never().is_none());
        let before = before.filter_map(FutureExt::now_or_never).count() as u64;
        assert!(before < TURN, "{before}");
    }

    #[test]
    fn a_caller_that_gave_up_costs_no_slot() {
        let slots = Slots::new(1);
        let slot = slots.acquire(Urgency::First).now_or_never().unwrap();
        let gave_up = waits(&slots, Urgency::First);
        let granted = waits(&slots, Urgency::First);
        let mut last = waits(&slots, Urgency::Background);
        drop(gave_up);
        drop(slot);
        // The grant has arrived, and is not taken.
        drop(granted);
        drop((&mut last).now_or_never().unwrap());
        assert!(slots.acquire(Urgency::First).now_or_never().is_some());
    }
}
