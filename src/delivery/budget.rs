//! The byte budget: the only limit on memory.
//!
//! Actor mailboxes are unbounded. Without the budget, the pipeline would fill the memory when the
//! database is slow, and outsiders would fill it with bytes that expand. So what is charged is what
//! bytes become, and it is charged before they do. The socket is read only while there is room.
//!
//! The budget has three shares, and one for each sink. None of them borrows from another, so what fills one stops no other.
//!
//! - *Frames*, three eighths: what was read and is not applied yet, with what its effects take. A
//!   frame is charged when it is read, once and for all its time. The share may be overdrawn by one
//!   batch, because a frame's size is known only when it was read.
//! - *Repositories*, three eighths: what a repository takes while it arrives, and then while it is
//!   read. Nothing is held between the two, so a slow host delays transfers only.
//! - *Work*, a quarter: what exists only for a moment, while a frame is decoded or rows are written.
//! - *Sinks*, if there are any, an eighth, which is taken from the frames: what is on its way to a sink.
//!   Each sink has its part, since it may wait for a server that does not answer.
//!
//! Nothing can wait for itself. A task reserves its part of a share in one step, while it holds
//! nothing of that share. A holder of *work* waits for no share, and a holder of *repositories* only
//! for *work*. Those who wait are served in their order. A reservation that is larger than its share
//! takes all of it, and so is alone with what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The bytes of one permit of a share, since permits are counted by 32 bits.
const PERMIT_BYTES: usize = 1 << 10;
/// How many times its bytes a page of changes takes. The database hands it out as JSON, which is up to twice
/// as long, and twice in memory; then it is rows, and then what is sent.
const PAGE_GROWTH: usize = 8;

/// Counts the bytes of everything that the stream and the repositories hold in memory.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    /// The limit of the share of frames.
    frames_limit: usize,
    frames: AtomicUsize,
    reserved: AtomicUsize,
    freed: Notify,
    repositories: Share,
    work: Share,
    /// The bytes of each sink.
    of_sink: usize,
}

/// A share of which parts are reserved.
#[derive(Debug)]
struct Share {
    permits: Arc<Semaphore>,
    size: u32,
}

impl Budget {
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Self::with_sinks(limit_bytes, 0)
    }

    /// A budget of which `sinks` have a share too: together an eighth, which is taken from the frames.
    pub fn with_sinks(limit_bytes: usize, sinks: usize) -> Arc<Self> {
        let eighth = limit_bytes / 8;
        let of_sinks = if sinks == 0 { 0 } else { eighth };
        Arc::new(Self {
            limit: limit_bytes,
            frames_limit: limit_bytes - 5 * eighth - of_sinks,
            frames: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            freed: Notify::new(),
            repositories: Share::of(3 * eighth),
            work: Share::of(2 * eighth),
            of_sink: of_sinks / sinks.max(1),
        })
    }

    pub fn limit_bytes(&self) -> usize {
        self.limit
    }

    /// The bytes that are charged or reserved.
    pub fn in_flight_bytes(&self) -> usize {
        self.frames.load(Ordering::Acquire) + self.reserved.load(Ordering::Acquire)
    }

    /// Whether more frames may be read.
    pub fn has_room(&self) -> bool {
        self.frames.load(Ordering::Acquire) < self.frames_limit
    }

    /// Returns as soon as more frames may be read.
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

    /// Charges `bytes` of frames, even if there is no room.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.frames.fetch_add(bytes, Ordering::AcqRel);
        Charge {
            budget: self.clone(),
            bytes,
        }
    }

    /// Reserves `bytes` for the fetch of a repository. Waits until they are free.
    pub async fn reserve_repository(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.reserve(&self.repositories, bytes).await
    }

    /// Reserves `bytes` for work that waits for nothing else. Waits until they are free.
    pub async fn reserve_work(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.reserve(&self.work, bytes).await
    }

    /// A share for one sink. No other sink takes anything of it.
    pub fn sink_share(self: &Arc<Self>) -> SinkShare {
        SinkShare {
            budget: self.clone(),
            share: Arc::new(Share::of(self.of_sink)),
            bytes: self.of_sink,
        }
    }

    async fn reserve(self: &Arc<Self>, share: &Share, bytes: usize) -> Reservation {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, share.size);
        let acquired = share.permits.clone().acquire_many_owned(permits).await;
        self.reserved.fetch_add(bytes, Ordering::AcqRel);
        Reservation {
            budget: self.clone(),
            bytes,
            // The semaphore is never closed.
            _permits: acquired.ok(),
        }
    }
}

impl Share {
    fn of(bytes: usize) -> Self {
        let size = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX);
        let size = size.clamp(1, Semaphore::MAX_PERMITS as u32);
        Self {
            permits: Arc::new(Semaphore::new(size as usize)),
            size,
        }
    }
}

/// A part of the share of frames. Dropping it returns the bytes.
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
        self.budget.frames.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.freed.notify_waiters();
    }
}

/// The share of one sink: for the page of changes that is delivered, and the next one, which is read
/// meanwhile.
#[derive(Clone, Debug)]
pub struct SinkShare {
    budget: Arc<Budget>,
    share: Arc<Share>,
    bytes: usize,
}

impl SinkShare {
    /// The bytes that a page of changes may have. While it is sent it exists several times.
    pub fn page_bytes(&self) -> usize {
        (self.bytes / (2 * PAGE_GROWTH)).max(1)
    }

    /// Reserves half of the share for a page. Waits until one of two pages before is dropped.
    pub async fn reserve(&self) -> Reservation {
        // In whole permits: two halves that are rounded up would be more than the share.
        let half = self.bytes / (2 * PERMIT_BYTES) * PERMIT_BYTES;
        self.budget.reserve(&self.share, half).await
    }
}

/// A part of a share for one task. Dropping it returns the bytes.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
    _permits: Option<OwnedSemaphorePermit>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
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
        let budget = Budget::new(160);
        let first = budget.charge(50);
        let second = budget.charge(50);
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

    #[test]
    fn the_shares_are_the_whole_budget() {
        let budget = Budget::new(64 << 20);
        let reservable = budget.repositories.size + budget.work.size;
        let reservable = reservable as usize * PERMIT_BYTES;
        assert_eq!(budget.frames_limit + reservable, budget.limit_bytes());
    }

    /// Holds invariant 11.14.
    #[tokio::test]
    async fn each_sink_has_a_share_of_its_own_and_all_of_them_are_within_the_budget() {
        let budget = Budget::with_sinks(64 << 20, 2);
        let reservable = budget.repositories.size + budget.work.size;
        let reservable = reservable as usize * PERMIT_BYTES;
        let shares = [budget.sink_share(), budget.sink_share()];
        let of_sinks: usize = shares.iter().map(|share| share.bytes).sum();
        assert_eq!(
            budget.frames_limit + reservable + of_sinks,
            budget.limit_bytes()
        );
        let _page = shares[0].reserve().await;
        let _next = shares[0].reserve().now_or_never().expect("one ahead");
        assert!(shares[0].reserve().now_or_never().is_none());
        let _other = shares[1].reserve().now_or_never().expect("its own");
        let _work = budget
            .reserve_work(1)
            .now_or_never()
            .expect("a share of its own");
    }

    #[tokio::test]
    async fn a_page_is_read_ahead_however_many_sinks_there_are() {
        for sinks in 1..=9 {
            let budget = Budget::with_sinks(256 << 20, sinks);
            let share = budget.sink_share();
            let _page = share.reserve().await;
            assert!(share.reserve().now_or_never().is_some(), "{sinks} sinks");
        }
    }

    /// Holds invariant 4.9.
    #[tokio::test]
    async fn a_share_is_never_reserved_twice() {
        let budget = Budget::new(8 << 20);
        let first = budget.reserve_repository(2 << 20).await;
        let mut second = Box::pin(budget.reserve_repository(2 << 20));
        let mut small = Box::pin(budget.reserve_repository(1));
        assert!(second.as_mut().now_or_never().is_none(), "there are 3 MiB");
        assert!(small.as_mut().now_or_never().is_none(), "it came later");
        assert_eq!(budget.in_flight_bytes(), 2 << 20);
        drop(first);
        let second = second.as_mut().now_or_never().expect("it was returned");
        let small = small
            .as_mut()
            .now_or_never()
            .expect("there is room for both");
        drop((second, small));
        assert_eq!(budget.in_flight_bytes(), 0);
    }

    /// Holds invariant 4.9.
    #[tokio::test]
    async fn what_is_larger_than_its_share_has_it_alone() {
        let budget = Budget::new(8 << 20);
        let small = budget.reserve_work(1).await;
        let mut large = Box::pin(budget.reserve_work(100 << 20));
        assert!(large.as_mut().now_or_never().is_none());
        drop(small);
        let large = large.as_mut().now_or_never().expect("it is alone now");
        assert_eq!(budget.in_flight_bytes(), 100 << 20);
        assert!(budget.reserve_work(1).now_or_never().is_none());
        drop(large);
    }

    /// Holds invariant 4.9: neither a flood of frames nor slow hosts stop the others.
    #[tokio::test]
    async fn a_share_that_is_full_stops_no_other() {
        let budget = Budget::new(8 << 20);
        let _frames = budget.charge(8 << 20);
        let _fetch = budget.reserve_repository(8 << 20).await;
        assert!(!budget.has_room());
        assert!(budget.reserve_repository(1).now_or_never().is_none());
        let _work = budget
            .reserve_work(1)
            .now_or_never()
            .expect("a share of its own");
    }
}
