//! Everything that was read from a source and is not yet acked.
//!
//! Every batch of frames that leaves the socket is entered here and handed out under a [`Lease`].
//! Settling the lease says that the batch's effects are durable, or that it needed none. Dropping
//! it unsettled (a panic, a killed actor, a mailbox that died with it) makes the batch *unacked*: it
//! is handed out again, from memory, to whoever asks next. So nobody has to know who held what.
//!
//! What leaves the socket is numbered from 0: each frame, and each run of frames that were passed by
//! unread (a [`Segment`]). A batch is a span of such numbers.
//! That makes a batch that must be cut in two, to find the frame that kills its handlers, no
//! special case for the stages that put batches back in order.

mod lease;
mod span;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::lease::{Lease, ProgressMarker};
pub use self::span::FrameSpan;
use super::budget::Charge;
use crate::delivery::segment::Segment;
use crate::model::{Position, SourceId};
use crate::store::plan::effect::GapCause;

/// How often a batch may die in a handler's hand before it is cut in two.
pub const DELIVERY_FAILURE_LIMIT: u32 = 3;

/// The memory of one source's unsettled frames.
pub struct Ledger {
    source: SourceId,
    state: Mutex<State>,
    /// Called when there is something to hand out.
    wake: Mutex<Option<Wake>>,
    /// Notified whenever something is acked.
    acked: Notify,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
struct State {
    epoch: EpochStart,
    /// Whether it was ever told where the source stands. Before that nothing is handed out.
    positioned: bool,
    /// Set while a stage is down: what would be handed out could not be passed on.
    paused: bool,
    /// Set once no more is to be entered.
    closed: bool,
    /// Contiguous, in the order of the socket.
    entries: VecDeque<Entry>,
    /// The first frame of each entry that nobody holds.
    unacked: BTreeSet<u64>,
    next_frame: u64,
    next_lease: u64,
    received: u64,
    acked_through: Position,
    last_progress_at: Instant,
    last_entered_at: Option<Instant>,
    delivery_failures_total: u64,
    acked_bytes: usize,
    /// Until so many bytes are acked, every frame is handed out alone.
    singly_until: usize,
}

#[derive(Debug)]
struct Entry {
    frames: FrameSpan,
    received_at: Instant,
    charge: Charge,
    state: EntryState,
    was_handed_out: bool,
    /// How often it was in a handler's hand when the handler died.
    delivery_failures: u32,
}

#[derive(Debug)]
enum EntryState {
    Unacked,
    Leased { lease: u64 },
    Acked { position: Position },
}

/// Where an epoch begins. Everything handed out in an earlier epoch is discarded on sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u64,
    /// The number of the first frame that will be handed out in it.
    pub first_frame: u64,
    /// What is acked before that frame.
    pub position: Position,
    /// Why events between `position` and the first event may be missing, if they may.
    pub gap: Option<GapCause>,
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
    /// Frames are handed out singly: see [`Ledger::hand_out_singly`].
    pub is_alone: bool,
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
                closed: false,
                entries: VecDeque::new(),
                unacked: BTreeSet::new(),
                next_frame: 0,
                next_lease: 0,
                received: 0,
                acked_through: Position::default(),
                last_progress_at: Instant::now(),
                last_entered_at: None,
                delivery_failures_total: 0,
                acked_bytes: 0,
                singly_until: 0,
            }),
            wake: Mutex::new(None),
            acked: Notify::new(),
        })
    }

    pub fn source(&self) -> &SourceId {
        &self.source
    }

    /// Has `wake` called, from any thread, whenever there is something to hand out.
    pub fn on_unacked(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(wake));
    }

    /// Enters what came from the socket; `last_seq` is the last seq among them, if any.
    /// After [`Self::close`] it does nothing.
    pub fn enter(&self, segments: Vec<Segment>, last_seq: Option<u64>, charge: Charge) {
        if segments.is_empty() {
            return;
        }
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            let first_frame = state.next_frame;
            let now = Instant::now();
            if state.entries.is_empty() {
                // Nothing was waiting, so nothing has been waiting for long.
                state.last_progress_at = now;
            }
            state.next_frame += segments.len() as u64;
            // That the last event comes once more is nothing new.
            if last_seq != Some(state.received) {
                state.last_entered_at = Some(now);
            }
            state.received = last_seq.unwrap_or(state.received);
            state.unacked.insert(first_frame);
            state.entries.push_back(Entry {
                frames: FrameSpan {
                    part: 0..segments.len(),
                    batch: segments.into(),
                    first_frame,
                },
                received_at: now,
                charge,
                state: EntryState::Unacked,
                was_handed_out: false,
                delivery_failures: 0,
            });
        }
        self.wake();
    }

    /// Takes nothing more, so that once it is idle it stays idle.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Hands out the oldest batch that nobody holds.
    pub fn lease_next(self: &Arc<Self>) -> Option<FrameBatch> {
        let mut state = self.lock();
        if state.paused {
            return None;
        }
        let first_frame = state.unacked.pop_first()?;
        let index = state.index_of(first_frame)?;
        let is_alone = state.acked_bytes < state.singly_until;
        if is_alone {
            state.cut(index, 1);
        }
        state.halve_if_suspect(index);
        let lease = state.next_lease;
        state.next_lease += 1;
        let epoch = state.epoch;
        let entry = &mut state.entries[index];
        entry.state = EntryState::Leased { lease };
        Some(FrameBatch {
            lease: Lease {
                ledger: self.clone(),
                id: lease,
                epoch,
                first_frame,
                delivery_failures: entry.delivery_failures,
                in_progress: false,
                marker: ProgressMarker::nowhere(),
                acked: false,
            },
            frames: entry.frames.clone(),
            received_at: entry.received_at,
            is_redelivery: std::mem::replace(&mut entry.was_handed_out, true),
            is_poison: entry.delivery_failures >= DELIVERY_FAILURE_LIMIT,
            is_alone,
        })
    }

    /// Hands out every frame alone until `bytes` of them are acked.
    pub fn hand_out_singly(&self, bytes: usize) {
        let mut state = self.lock();
        state.singly_until = state.acked_bytes + bytes;
    }

    /// Whether [`Self::lease_next`] would hand something out.
    pub fn has_unacked(&self) -> bool {
        let state = self.lock();
        !state.paused && !state.unacked.is_empty()
    }

    /// Hands out nothing more of `epoch`: a stage is down and could not take it.
    pub fn pause(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch.epoch == epoch {
            state.paused = true;
        }
    }

    /// Starts over from the first unsettled frame: all that is out becomes unacked again, and whatever
    /// still carries the old epoch is stale.
    pub fn begin_epoch(&self) {
        {
            let mut state = self.lock();
            let gap = state
                .epoch
                .gap
                .filter(|_| state.epoch.first_frame == state.first_unacked());
            state.begin_epoch(gap);
        }
        self.wake();
    }

    /// Puts the ledger at a position that was loaded or set. Refuses while it holds anything, since
    /// that would be forgotten.
    pub fn restart_at(&self, position: Position, gap: Option<GapCause>) -> bool {
        {
            let mut state = self.lock();
            if !state.entries.is_empty() {
                return false;
            }
            state.acked_through = position;
            state.received = position.seq;
            state.positioned = true;
            state.begin_epoch(gap);
        }
        self.acked.notify_waiters();
        true
    }

    pub fn epoch(&self) -> EpochStart {
        self.lock().epoch
    }

    /// The first epoch from which a stage that starts now may take anything.
    ///
    /// Not the one in force: its predecessor died in that one, so what still arrives under it lacks
    /// what the predecessor held, and would carry the cursor past that.
    pub fn next_epoch(&self) -> u64 {
        self.lock().epoch.epoch + 1
    }

    /// Whether [`Self::restart_at`] was ever called.
    pub fn is_positioned(&self) -> bool {
        self.lock().positioned
    }

    /// The newest seq that was entered: where to ask the source to go on.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// The low watermark: everything up to here is acked.
    pub fn acked_through(&self) -> Position {
        self.lock().acked_through
    }

    pub fn is_idle(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Returns once everything that was entered is acked.
    pub async fn idle(&self) {
        loop {
            let acked = self.acked.notified();
            if self.is_idle() {
                return;
            }
            acked.await;
        }
    }

    /// When something new came, if anything did.
    pub fn last_entered_at(&self) -> Option<Instant> {
        self.lock().last_entered_at
    }

    /// Since when there has been unsettled work, none of it was acked, and nobody died of it.
    pub fn waiting_since(&self) -> Option<Instant> {
        let state = self.lock();
        (!state.entries.is_empty()).then_some(state.last_progress_at)
    }

    /// The bytes of all frames that were acked, ever.
    pub fn acked_bytes(&self) -> usize {
        self.lock().acked_bytes
    }

    /// How often a batch died in a handler's hand, ever.
    pub fn delivery_failures_total(&self) -> u64 {
        self.lock().delivery_failures_total
    }

    fn ack(&self, lease: &Lease, position: Position) {
        {
            let mut state = self.lock();
            let Some(index) = state.leased(lease) else {
                return;
            };
            state.entries[index].state = EntryState::Acked { position };
            state.last_progress_at = Instant::now();
            state.pop_acked();
        }
        self.acked.notify_waiters();
    }

    fn give_back(&self, lease: &Lease) {
        {
            let mut state = self.lock();
            let Some(index) = state.leased(lease) else {
                return;
            };
            state.entries[index].state = EntryState::Unacked;
            state.unacked.insert(lease.first_frame);
            if lease.in_progress {
                state.record_delivery_failure(index, lease.marker.place());
            }
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

    fn first_unacked(&self) -> u64 {
        self.entries
            .front()
            .map_or(self.next_frame, |entry| entry.frames.first_frame)
    }

    /// The entry that `lease` still is the lease of. No two leases share an id, whatever their epoch.
    fn leased(&self, lease: &Lease) -> Option<usize> {
        let index = self.index_of(lease.first_frame)?;
        let state = &self.entries[index].state;
        matches!(state, EntryState::Leased { lease: id } if *id == lease.id).then_some(index)
    }

    fn begin_epoch(&mut self, gap: Option<GapCause>) {
        self.epoch = EpochStart {
            epoch: self.epoch.epoch + 1,
            first_frame: self.first_unacked(),
            position: self.acked_through,
            gap,
        };
        self.paused = !self.positioned;
        self.last_progress_at = Instant::now();
        // Also what was acked behind something unsettled: stages expect every number in turn, and
        // applying it again changes nothing.
        self.unacked.clear();
        for entry in &mut self.entries {
            entry.state = EntryState::Unacked;
            self.unacked.insert(entry.frames.first_frame);
        }
    }

    fn pop_acked(&mut self) {
        while let Some(EntryState::Acked { position }) =
            self.entries.front().map(|entry| &entry.state)
        {
            self.acked_through = *position;
            let acked = self.entries.pop_front();
            self.acked_bytes += acked.map_or(0, |entry| entry.frames.bytes());
        }
    }

    /// Notes that an entry's handler died with it in hand, at the frame that `marker` names. That
    /// one is set apart; the rest of its batch is innocent.
    fn record_delivery_failure(&mut self, index: usize, marker: Option<u64>) {
        let mut accused = index;
        if let Some(frame) = marker {
            let before = frame.saturating_sub(self.entries[index].frames.first_frame);
            if self.cut(index, before as usize) {
                accused += 1;
            }
            self.cut(accused, 1);
        }
        self.entries[accused].delivery_failures += 1;
        self.delivery_failures_total += 1;
        // The search for the poison has come forward; nothing is forgotten.
        self.last_progress_at = Instant::now();
    }

    /// Cuts a batch that keeps dying in two, where nobody saw which of its frames it was. The halves
    /// stay suspect: each further death cuts again, so a batch of n frames gives up its poison after
    /// about log₂ n deaths.
    fn halve_if_suspect(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        if entry.delivery_failures < DELIVERY_FAILURE_LIMIT || entry.frames.len() < 2 {
            return;
        }
        entry.delivery_failures = DELIVERY_FAILURE_LIMIT - 1;
        let half = entry.frames.len() / 2;
        self.cut(index, half);
    }

    /// Cuts the frames from the `at`-th on off an entry that nobody holds, into one of their own.
    /// Answers whether there were any on both sides.
    fn cut(&mut self, index: usize, at: usize) -> bool {
        let entry = &mut self.entries[index];
        let Some(second) = entry.frames.split_off(at) else {
            return false;
        };
        let second = Entry {
            received_at: entry.received_at,
            charge: entry.charge.split(second.bytes()),
            state: EntryState::Unacked,
            was_handed_out: entry.was_handed_out,
            delivery_failures: entry.delivery_failures,
            frames: second,
        };
        self.unacked.insert(second.frames.first_frame);
        self.entries.insert(index + 1, second);
        true
    }
}
