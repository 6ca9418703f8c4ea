//! Slots for requests, of which urgent callers get theirs first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Every so many grants the least urgent caller comes first, so that a flood of urgent ones does not
/// keep it waiting for ever.
const TURN: u64 = 4;
const URGENCIES: usize = 3;

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

/// A number of slots, and the callers that wait for one: in their order, the urgent ones first.
#[derive(Debug)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    grants: u64,
    next_number: u64,
    waiting: [VecDeque<(u64, oneshot::Sender<()>)>; URGENCIES],
}

/// An occupied slot. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

/// A caller that waits. If it is dropped after the grant, the slot goes to the next one.
struct Waiting {
    slots: Arc<Slots>,
    number: u64,
    urgency: Urgency,
    grant: oneshot::Receiver<()>,
    is_taken: bool,
}

impl Slots {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: slots,
            grants: 0,
            next_number: 0,
            waiting: Default::default(),
        })))
    }

    /// Waits for a slot. Dropping the future gives the place in the queue up.
    pub(crate) async fn acquire(self: &Arc<Self>, urgency: Urgency) -> Slot {
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
            state.waiting[urgency as usize].push_back((number, sender));
            Waiting {
                slots: Arc::clone(self),
                number,
                urgency,
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
        let mut queues = self.waiting.iter_mut().filter(|queue| !queue.is_empty());
        let queue = match is_turn_of_last {
            true => queues.next_back(),
            false => queues.next(),
        };
        queue?.pop_front().map(|(_, grant)| grant)
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
        {
            let mut state = self.slots.state();
            let queue = &mut state.waiting[self.urgency as usize];
            queue.retain(|(number, _)| *number != self.number);
        }
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
    fn waits(slots: &Arc<Slots>, urgency: Urgency) -> BoxFuture<'static, Slot> {
        let slots = Arc::clone(slots);
        let mut waiting = async move { slots.acquire(urgency).await }.boxed();
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
