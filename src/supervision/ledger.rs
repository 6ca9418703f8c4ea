//! Everything that was read from a source and is not yet settled.
//!
//! Every batch of frames that leaves the socket is entered here and handed out under a [`Lease`].
//! Settling the lease says that the batch's effects are durable, or that it needed none. Dropping
//! it unsettled (a panic, a killed actor, a mailbox that died with it) makes the batch *owed*: it
//! is handed out again, from memory, to whoever asks next. So nobody has to know who held what.
//!
//! Frames are numbered from 0 as they leave the socket, and a batch is a span of such numbers.
//! That makes a batch that must be cut in two, to find the frame that kills its handlers, no
//! special case for the stages that put batches back in order.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::Charge;
use crate::queue::effect::GapCause;
use crate::source::{Position, SourceId};

/// How often a batch may die in a handler's hand before it is cut in two.
pub const SUSPICION_LIMIT: u32 = 3;

/// The memory of one source's unsettled frames.
pub struct Ledger {
    source: SourceId,
    state: Mutex<State>,
    /// Called when there is something to hand out.
    wake: Mutex<Option<Wake>>,
    /// Notified whenever something is settled.
    settled: Notify,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
struct State {
    epoch: EpochStart,
    /// Whether it was ever told where the source stands. Before that nothing is handed out.
    positioned: bool,
    /// Set while a stage is down: what would be handed out could not be passed on.
    paused: bool,
    /// Contiguous, in the order of the socket.
    entries: VecDeque<Entry>,
    /// The first frame of each entry that nobody holds.
    owed: BTreeSet<u64>,
    next_frame: u64,
    next_lease: u64,
    received: u64,
    settled_through: Position,
    last_settled_at: Instant,
    last_entered_at: Option<Instant>,
    suspicions: u64,
}

#[derive(Debug)]
struct Entry {
    frames: FrameSpan,
    received_at: Instant,
    charge: Charge,
    standing: Standing,
    was_handed_out: bool,
    /// How often it was in a handler's hand when the handler died.
    suspicion: u32,
}

#[derive(Debug)]
enum Standing {
    Owed,
    Leased { lease: u64 },
    Settled { position: Position },
}

/// Where an epoch begins. Everything handed out in an earlier epoch is discarded on sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u64,
    /// The number of the first frame that will be handed out in it.
    pub first_frame: u64,
    /// What is settled before that frame.
    pub position: Position,
    /// Why events between `position` and the first event may be missing, if they may.
    pub gap: Option<GapCause>,
}

/// Consecutive frames of one source.
#[derive(Clone, Debug)]
pub struct FrameSpan {
    batch: Arc<[Bytes]>,
    /// The part of `batch` that this span is.
    part: Range<usize>,
    first_frame: u64,
}

impl FrameSpan {
    /// The numbers of the frames.
    pub fn numbers(&self) -> Range<u64> {
        self.first_frame..self.first_frame + self.part.len() as u64
    }

    pub fn frames(&self) -> &[Bytes] {
        &self.batch[self.part.clone()]
    }

    fn bytes(&self) -> usize {
        self.frames().iter().map(Bytes::len).sum()
    }

    /// Cuts off and returns the second half; `None` where there is but one frame.
    fn split_half(&mut self) -> Option<Self> {
        let half = self.part.len() / 2;
        if half == 0 {
            return None;
        }
        let middle = self.part.start + half;
        let second = Self {
            batch: self.batch.clone(),
            part: middle..self.part.end,
            first_frame: self.first_frame + half as u64,
        };
        self.part.end = middle;
        Some(second)
    }
}

/// Frames to be handled, and the duty to settle them.
#[derive(Debug)]
pub struct FrameBatch {
    pub lease: Lease,
    pub frames: FrameSpan,
    pub received_at: Instant,
    /// It was handed out before, and its holder died.
    pub is_redelivery: bool,
    /// This single frame has killed every handler that touched it: it is to be kept as a dead
    /// letter, unread.
    pub is_poison: bool,
}

// === impl Ledger ===

impl Ledger {
    pub fn new(source: SourceId) -> Arc<Self> {
        Arc::new(Self {
            source,
            state: Mutex::new(State {
                epoch: EpochStart::default(),
                positioned: false,
                paused: true,
                entries: VecDeque::new(),
                owed: BTreeSet::new(),
                next_frame: 0,
                next_lease: 0,
                received: 0,
                settled_through: Position::default(),
                last_settled_at: Instant::now(),
                last_entered_at: None,
                suspicions: 0,
            }),
            wake: Mutex::new(None),
            settled: Notify::new(),
        })
    }

    pub fn source(&self) -> &SourceId {
        &self.source
    }

    /// Has `wake` called, from any thread, whenever there is something to hand out.
    pub fn on_owed(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(wake));
    }

    /// Enters frames as they came from the socket; `last_seq` is the last seq among them, if any.
    pub fn enter(&self, frames: Vec<Bytes>, last_seq: Option<u64>, charge: Charge) {
        if frames.is_empty() {
            return;
        }
        {
            let mut state = self.lock();
            let first_frame = state.next_frame;
            let now = Instant::now();
            if state.entries.is_empty() {
                // Nothing was waiting, so nothing has been waiting for long.
                state.last_settled_at = now;
            }
            state.next_frame += frames.len() as u64;
            state.received = last_seq.unwrap_or(state.received);
            state.last_entered_at = Some(now);
            state.owed.insert(first_frame);
            state.entries.push_back(Entry {
                frames: FrameSpan {
                    part: 0..frames.len(),
                    batch: frames.into(),
                    first_frame,
                },
                received_at: now,
                charge,
                standing: Standing::Owed,
                was_handed_out: false,
                suspicion: 0,
            });
        }
        self.wake();
    }

    /// Hands out the oldest batch that nobody holds.
    pub fn lease_next(self: &Arc<Self>) -> Option<FrameBatch> {
        let mut state = self.lock();
        if state.paused {
            return None;
        }
        let first_frame = state.owed.pop_first()?;
        let index = state.index_of(first_frame)?;
        state.halve_if_suspect(index);
        let lease = state.next_lease;
        state.next_lease += 1;
        let epoch = state.epoch;
        let entry = &mut state.entries[index];
        entry.standing = Standing::Leased { lease };
        Some(FrameBatch {
            lease: Lease {
                ledger: self.clone(),
                id: lease,
                epoch,
                first_frame,
                suspicion: entry.suspicion,
                in_hand: false,
                settled: false,
            },
            frames: entry.frames.clone(),
            received_at: entry.received_at,
            is_redelivery: std::mem::replace(&mut entry.was_handed_out, true),
            is_poison: entry.suspicion >= SUSPICION_LIMIT,
        })
    }

    /// Whether [`Self::lease_next`] would hand something out.
    pub fn has_owed(&self) -> bool {
        let state = self.lock();
        !state.paused && !state.owed.is_empty()
    }

    /// Hands out nothing more of `epoch`: a stage is down and could not take it.
    pub fn pause(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch.epoch == epoch {
            state.paused = true;
        }
    }

    /// Starts over from the first unsettled frame: all that is out becomes owed again, and whatever
    /// still carries the old epoch is stale.
    pub fn begin_epoch(&self) {
        {
            let mut state = self.lock();
            let gap = state
                .epoch
                .gap
                .filter(|_| state.epoch.first_frame == state.first_unsettled());
            state.begin_epoch(gap);
        }
        self.wake();
    }

    /// Puts the ledger at a position that was loaded or set, forgetting what it held.
    pub fn restart_at(&self, position: Position, gap: Option<GapCause>) {
        {
            let mut state = self.lock();
            state.entries.clear();
            state.settled_through = position;
            state.received = position.seq;
            state.positioned = true;
            state.begin_epoch(gap);
        }
        self.settled.notify_waiters();
    }

    pub fn epoch(&self) -> EpochStart {
        self.lock().epoch
    }

    /// Whether [`Self::restart_at`] was ever called.
    pub fn is_positioned(&self) -> bool {
        self.lock().positioned
    }

    /// The newest seq that was entered: where to ask the source to go on.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// The low watermark: everything up to here is settled.
    pub fn settled_through(&self) -> Position {
        self.lock().settled_through
    }

    pub fn is_idle(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Returns once everything that was entered is settled.
    pub async fn idle(&self) {
        loop {
            let settled = self.settled.notified();
            if self.is_idle() {
                return;
            }
            settled.await;
        }
    }

    pub fn last_entered_at(&self) -> Option<Instant> {
        self.lock().last_entered_at
    }

    /// Since when there has been unsettled work and none of it was settled.
    pub fn waiting_since(&self) -> Option<Instant> {
        let state = self.lock();
        (!state.entries.is_empty()).then_some(state.last_settled_at)
    }

    /// How often a batch died in a handler's hand, ever.
    pub fn suspicions(&self) -> u64 {
        self.lock().suspicions
    }

    fn settle(&self, lease: &Lease, position: Position) {
        {
            let mut state = self.lock();
            let Some(entry) = state.leased(lease) else {
                return;
            };
            entry.standing = Standing::Settled { position };
            state.last_settled_at = Instant::now();
            state.release_settled();
        }
        self.settled.notify_waiters();
    }

    fn owe(&self, lease: &Lease) {
        {
            let mut state = self.lock();
            let Some(entry) = state.leased(lease) else {
                return;
            };
            entry.standing = Standing::Owed;
            entry.suspicion += u32::from(lease.in_hand);
            state.suspicions += u64::from(lease.in_hand);
            state.owed.insert(lease.first_frame);
        }
        self.wake();
    }

    fn wake(&self) {
        let wake = self
            .wake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(wake) = wake {
            wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that runs under the lock can panic between two writes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    fn index_of(&self, first_frame: u64) -> Option<usize> {
        self.entries
            .binary_search_by_key(&first_frame, |entry| entry.frames.first_frame)
            .ok()
    }

    fn first_unsettled(&self) -> u64 {
        self.entries
            .front()
            .map_or(self.next_frame, |entry| entry.frames.first_frame)
    }

    /// The entry that `lease` still is the lease of.
    fn leased(&mut self, lease: &Lease) -> Option<&mut Entry> {
        if lease.epoch.epoch != self.epoch.epoch {
            return None;
        }
        let index = self.index_of(lease.first_frame)?;
        let entry = &mut self.entries[index];
        matches!(entry.standing, Standing::Leased { lease: id } if id == lease.id).then_some(entry)
    }

    fn begin_epoch(&mut self, gap: Option<GapCause>) {
        self.epoch = EpochStart {
            epoch: self.epoch.epoch + 1,
            first_frame: self.first_unsettled(),
            position: self.settled_through,
            gap,
        };
        self.paused = !self.positioned;
        self.last_settled_at = Instant::now();
        // Also what was settled behind something unsettled: stages expect every number in turn, and
        // applying it again changes nothing.
        self.owed.clear();
        for entry in &mut self.entries {
            entry.standing = Standing::Owed;
            self.owed.insert(entry.frames.first_frame);
        }
    }

    fn release_settled(&mut self) {
        while let Some(Standing::Settled { position }) =
            self.entries.front().map(|entry| &entry.standing)
        {
            self.settled_through = *position;
            self.entries.pop_front();
        }
    }

    /// Cuts a batch that keeps dying in two. The halves stay suspect: each further death cuts
    /// again, so a batch of n frames gives up its poison after about log₂ n deaths.
    fn halve_if_suspect(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        if entry.suspicion < SUSPICION_LIMIT {
            return;
        }
        let Some(second) = entry.frames.split_half() else {
            return;
        };
        entry.suspicion = SUSPICION_LIMIT - 1;
        let second = Entry {
            received_at: entry.received_at,
            charge: entry.charge.split(second.bytes()),
            standing: Standing::Owed,
            was_handed_out: true,
            suspicion: SUSPICION_LIMIT - 1,
            frames: second,
        };
        self.owed.insert(second.frames.first_frame);
        self.entries.insert(index + 1, second);
    }
}

/// The duty to settle a batch. Dropped unsettled, the batch is owed again.
#[derive(Debug)]
pub struct Lease {
    ledger: Arc<Ledger>,
    id: u64,
    epoch: EpochStart,
    first_frame: u64,
    suspicion: u32,
    in_hand: bool,
    settled: bool,
}

impl Lease {
    pub fn epoch(&self) -> EpochStart {
        self.epoch
    }

    /// Whether an epoch that began since has made this lease void.
    pub fn is_stale(&self) -> bool {
        self.ledger.epoch().epoch != self.epoch.epoch
    }

    /// Whether a handler has died with this batch in hand. It is then handled alone, so that the
    /// next death accuses nobody else.
    pub fn is_suspect(&self) -> bool {
        self.suspicion > 0
    }

    /// Says that a handler works on the batch: should it die now, the batch may be the reason.
    pub fn take_in_hand(&mut self) {
        self.in_hand = true;
    }

    /// Says that the batch only waits, in a mailbox or a buffer.
    pub fn lay_down(&mut self) {
        self.in_hand = false;
    }

    /// The batch's effects are durable, or it needed none; `position` is the place behind it.
    pub fn settle(mut self, position: Position) {
        self.settled = true;
        self.ledger.settle(&self, position);
    }

    /// Tells the ledger that the next stage is down: see [`Ledger::pause`].
    pub fn pause_ledger(&self) {
        self.ledger.pause(self.epoch.epoch);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled {
            self.ledger.owe(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::supervision::budget::Budget;

    struct Bench {
        ledger: Arc<Ledger>,
        budget: Arc<Budget>,
        seq: u64,
    }

    impl Bench {
        fn new() -> Self {
            let ledger = Ledger::new(SourceId::new("ws://source.test/"));
            ledger.restart_at(Position::default(), None);
            Self {
                ledger,
                budget: Budget::new(1_000_000),
                seq: 0,
            }
        }

        /// Enters a batch of `count` frames of 10 bytes each.
        fn enter(&mut self, count: u64) {
            let frames = vec![Bytes::from_static(b"0123456789"); count as usize];
            let charge = self.budget.charge(10 * count as usize);
            self.seq += count;
            self.ledger.enter(frames, Some(self.seq), charge);
        }

        fn lease(&self) -> FrameBatch {
            self.ledger.lease_next().expect("something is owed")
        }
    }

    fn at(seq: u64) -> Position {
        Position { seq, time: None }
    }

    #[test]
    fn batches_are_handed_out_once_and_in_order() {
        let mut bench = Bench::new();
        bench.enter(2);
        bench.enter(3);
        let (first, second) = (bench.lease(), bench.lease());
        assert_eq!(first.frames.numbers(), 0..2);
        assert_eq!(second.frames.numbers(), 2..5);
        assert!(bench.ledger.lease_next().is_none());
    }

    #[test]
    fn the_watermark_waits_for_the_oldest_unsettled_batch() {
        let mut bench = Bench::new();
        bench.enter(2);
        bench.enter(2);
        let (first, second) = (bench.lease(), bench.lease());
        second.lease.settle(at(4));
        assert_eq!(bench.ledger.settled_through(), at(0));
        assert_eq!(bench.budget.in_flight_bytes(), 40);
        first.lease.settle(at(2));
        assert_eq!(bench.ledger.settled_through(), at(4));
        assert_eq!(bench.budget.in_flight_bytes(), 0);
        assert!(bench.ledger.is_idle());
    }

    #[test]
    fn a_dropped_lease_is_owed_again_before_anything_newer() {
        let mut bench = Bench::new();
        bench.enter(1);
        bench.enter(1);
        bench.enter(1);
        let _first = bench.lease();
        let second = bench.lease();
        drop(second);
        assert_eq!(bench.lease().frames.numbers(), 1..2);
    }

    #[test]
    fn a_panicking_holder_leaves_its_batch_owed() {
        let mut bench = Bench::new();
        bench.enter(1);
        let mut batch = bench.lease();
        let died = std::thread::spawn(move || {
            batch.lease.take_in_hand();
            panic!("injected");
        })
        .join();
        assert!(died.is_err());
        let again = bench.lease();
        assert!(again.lease.is_suspect());
        assert_eq!(bench.ledger.suspicions(), 1);
    }

    #[test]
    fn waiting_in_a_mailbox_that_dies_makes_no_batch_suspect() {
        let mut bench = Bench::new();
        bench.enter(4);
        for _ in 0..10 {
            let mut batch = bench.lease();
            batch.lease.take_in_hand();
            batch.lease.lay_down();
            drop(batch);
        }
        let again = bench.lease();
        assert!(!again.lease.is_suspect());
        assert_eq!(again.frames.numbers(), 0..4);
    }

    #[test]
    fn an_epoch_hands_out_all_that_is_unsettled_and_voids_the_old_leases() {
        let mut bench = Bench::new();
        bench.enter(1);
        bench.enter(1);
        bench.enter(1);
        let first = bench.lease();
        let second = bench.lease();
        first.lease.settle(at(1));
        bench.ledger.begin_epoch();
        assert!(second.lease.is_stale());
        let start = bench.ledger.epoch();
        assert_eq!((start.first_frame, start.position), (1, at(1)));
        // A late word from the old epoch changes nothing.
        second.lease.settle(at(2));
        assert_eq!(bench.ledger.settled_through(), at(1));
        assert_eq!(bench.lease().frames.numbers(), 1..2);
    }

    #[test]
    fn a_paused_ledger_hands_out_nothing_until_the_next_epoch() {
        let mut bench = Bench::new();
        bench.enter(1);
        let batch = bench.lease();
        batch.lease.pause_ledger();
        drop(batch);
        assert!(bench.ledger.lease_next().is_none());
        bench.ledger.begin_epoch();
        assert!(bench.ledger.lease_next().is_some());
    }

    #[test]
    fn a_pause_that_comes_after_the_restart_it_asks_for_is_ignored() {
        let mut bench = Bench::new();
        bench.enter(1);
        let batch = bench.lease();
        bench.ledger.begin_epoch();
        batch.lease.pause_ledger();
        assert!(bench.ledger.has_owed());
    }

    #[test]
    fn a_gap_that_was_not_settled_is_told_again_in_the_next_epoch() {
        let mut bench = Bench::new();
        bench.ledger.restart_at(at(0), Some(GapCause::StartedLive));
        bench.enter(1);
        let _lost = bench.lease();
        bench.ledger.begin_epoch();
        assert_eq!(bench.ledger.epoch().gap, Some(GapCause::StartedLive));
        bench.lease().lease.settle(at(1));
        bench.ledger.begin_epoch();
        assert_eq!(bench.ledger.epoch().gap, None);
    }

    /// Handles everything that is owed; a batch that holds frame `poison` dies in hand. Returns the
    /// number of deaths, and the frames that were given up as poison.
    fn run_with_poison(bench: &Bench, poison: u64) -> (u32, Vec<u64>) {
        let (mut deaths, mut given_up) = (0, Vec::new());
        while let Some(mut batch) = bench.ledger.lease_next() {
            let numbers = batch.frames.numbers();
            if batch.is_poison {
                given_up.push(numbers.start);
            } else if numbers.contains(&poison) {
                batch.lease.take_in_hand();
                deaths += 1;
                continue;
            }
            batch.lease.settle(at(numbers.end));
        }
        (deaths, given_up)
    }

    #[test]
    fn poison_is_found_by_halves() {
        for poison in 0..256 {
            let mut bench = Bench::new();
            bench.enter(256);
            let (deaths, given_up) = run_with_poison(&bench, poison);
            assert_eq!(given_up, [poison]);
            assert!(deaths <= 3 + 8, "{deaths} deaths to find frame {poison}");
            assert_eq!(bench.ledger.settled_through(), at(256));
            assert_eq!(bench.budget.in_flight_bytes(), 0);
        }
    }

    #[test]
    fn whoever_handles_frames_is_woken_when_some_are_owed() {
        let mut bench = Bench::new();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        bench.ledger.on_owed(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        bench.enter(1);
        drop(bench.lease());
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u64),
        Lease,
        Settle(usize),
        Drop { index: usize, in_hand: bool },
        BeginEpoch,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..6_u64).prop_map(Step::Enter),
            Just(Step::Lease),
            (0..8_usize).prop_map(Step::Settle),
            (0..8_usize, any::<bool>()).prop_map(|(index, in_hand)| Step::Drop { index, in_hand }),
            Just(Step::BeginEpoch),
        ]
    }

    proptest! {
        /// Rules 1, 3 and 4: whatever happens to the leases, every frame is settled in the end, the
        /// watermark never passes a frame that is not, and every byte is given back.
        #[test]
        fn every_frame_is_settled_in_the_end(steps in prop::collection::vec(step(), 0..120)) {
            let mut bench = Bench::new();
            let mut held: Vec<FrameBatch> = Vec::new();
            let mut done = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Enter(count) => bench.enter(count),
                    Step::Lease => held.extend(bench.ledger.lease_next()),
                    Step::Settle(index) if index < held.len() => {
                        let batch = held.swap_remove(index);
                        let numbers = batch.frames.numbers();
                        if !batch.lease.is_stale() {
                            done.extend(numbers.clone());
                        }
                        batch.lease.settle(at(numbers.end));
                    }
                    Step::Drop { index, in_hand } if index < held.len() => {
                        let mut batch = held.swap_remove(index);
                        if in_hand {
                            batch.lease.take_in_hand();
                        }
                    }
                    Step::BeginEpoch => bench.ledger.begin_epoch(),
                    Step::Settle(_) | Step::Drop { .. } => {}
                }
                let watermark = bench.ledger.settled_through().seq;
                prop_assert!((0..watermark).all(|frame| done.contains(&frame)));
            }
            held.clear();
            while let Some(batch) = bench.ledger.lease_next() {
                let end = batch.frames.numbers().end;
                batch.lease.settle(at(end));
            }
            prop_assert!(bench.ledger.is_idle());
            prop_assert_eq!(bench.ledger.settled_through().seq, bench.seq);
            prop_assert_eq!(bench.budget.in_flight_bytes(), 0);
        }
    }
}
