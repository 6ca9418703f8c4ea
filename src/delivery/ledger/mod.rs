//! The ledger: all frames that were read from a source and are not acked yet.
//!
//! The connection enters every batch of frames here, and the ledger hands each batch out under a
//! [`Lease`]. An ack of the lease says that the effects of the batch are durable, or that it has
//! none. If the lease is dropped without an ack (a panic, a killed actor, a mailbox that was lost
//! with it), the batch is *unacked*: the ledger hands it out again, from memory, to the next
//! caller. So the ledger need not track which actor holds a batch.
//!
//! Frames are numbered from 0, and so is each run of frames that were skipped unread (a
//! [`Segment`]). A batch is a span of these numbers. A batch may be cut in two, to find the frame
//! that makes its handlers fail. The stages that restore the order need no special case for this.

mod batch;
mod lease;
mod span;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::batch::{EpochStart, FrameBatch};
pub use self::lease::{Lease, ProgressMarker};
pub use self::span::FrameSpan;
use super::budget::Charge;
use crate::delivery::segment::Segment;
use crate::delivery::sequence::Leaps;
use crate::model::{GapCause, Position, SourceId};

/// After this many failed deliveries, a batch is cut in two.
pub const DELIVERY_FAILURE_LIMIT: u32 = 3;

/// All unacked frames of one source.
pub struct Ledger {
    source: SourceId,
    state: Mutex<State>,
    /// Called when there is a batch to hand out.
    wake: Mutex<Option<Wake>>,
    /// Notified after each ack.
    acked: Notify,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
struct State {
    epoch: EpochStart,
    /// Whether the ledger knows the source's position. Before that, nothing is handed out.
    positioned: bool,
    /// Set while a stage is down and could not accept a batch.
    paused: bool,
    /// Set when no more frames may be entered.
    closed: bool,
    /// Contiguous, in the order of the socket.
    entries: VecDeque<Entry>,
    /// The first frame of each entry that is not leased.
    unacked: BTreeSet<u64>,
    next_frame: u64,
    next_lease: u64,
    received: u64,
    acked_through: Position,
    /// What is known of leaps at that position.
    leaps: Leaps,
    last_progress_at: Instant,
    last_entered_at: Option<Instant>,
    delivery_failures_total: u64,
    acked_bytes: usize,
    /// Until this many bytes are acked, every frame is handed out alone.
    singly_until: usize,
}

#[derive(Debug)]
struct Entry {
    frames: FrameSpan,
    received_at: Instant,
    charge: Charge,
    state: EntryState,
    was_handed_out: bool,
    /// How often a handler failed while it processed this entry.
    delivery_failures: u32,
}

#[derive(Debug)]
enum EntryState {
    Unacked,
    Leased { lease: u64 },
    Acked { position: Position, leaps: Leaps },
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
                leaps: Leaps::default(),
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

    /// Registers `wake`, which is called from any thread whenever there is a batch to hand out.
    pub fn on_unacked(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(wake));
    }

    /// Enters the segments that the socket delivered; `last_seq` is the last seq among them, if
    /// any. Does nothing after [`Self::close`].
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
                // The ledger was empty, so the wait for progress begins now.
                state.last_progress_at = now;
            }
            state.next_frame += segments.len() as u64;
            // The last event may be sent once more after a reconnect. That is not a new event.
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

    /// Refuses further frames, so that an idle ledger stays idle.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Hands out the oldest batch that is not leased.
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
                leaps: Leaps::default(),
                acked: false,
            },
            frames: entry.frames.clone(),
            received_at: entry.received_at,
            is_redelivery: std::mem::replace(&mut entry.was_handed_out, true),
            is_poison: entry.delivery_failures >= DELIVERY_FAILURE_LIMIT,
            is_alone,
        })
    }

    /// Hands out every frame alone until `bytes` bytes are acked.
    pub fn hand_out_singly(&self, bytes: usize) {
        let mut state = self.lock();
        state.singly_until = state.acked_bytes + bytes;
    }

    /// Whether [`Self::lease_next`] would return a batch.
    pub fn has_unacked(&self) -> bool {
        let state = self.lock();
        !state.paused && !state.unacked.is_empty()
    }

    /// Hands out nothing more in `epoch`, because a stage is down and could not accept it.
    pub fn pause(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch.epoch == epoch {
            state.paused = true;
        }
    }

    /// Starts a new epoch at the first unacked frame: all leased batches become unacked again, and
    /// everything with the old epoch is stale.
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

    /// Sets the position that was loaded or configured. Refuses if the ledger holds frames, because
    /// these would be lost.
    pub fn restart_at(&self, position: Position, gap: Option<GapCause>) -> bool {
        {
            let mut state = self.lock();
            if !state.entries.is_empty() {
                return false;
            }
            state.acked_through = position;
            state.leaps = Leaps::default();
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

    /// The first epoch from which a stage that starts now may accept batches.
    ///
    /// This is not the current epoch. The previous instance of the stage failed in the current one,
    /// so batches that still arrive in it lack the ones that the previous instance held. Accepting
    /// them would move the cursor past the missing ones.
    pub fn next_epoch(&self) -> u64 {
        self.lock().epoch.epoch + 1
    }

    /// Whether [`Self::restart_at`] was called.
    pub fn is_positioned(&self) -> bool {
        self.lock().positioned
    }

    /// The newest seq that was entered. The source is asked to resume there.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// The low watermark: everything up to this position is acked.
    pub fn acked_through(&self) -> Position {
        self.lock().acked_through
    }

    pub fn is_idle(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Returns as soon as everything that was entered is acked.
    pub async fn idle(&self) {
        loop {
            let acked = self.acked.notified();
            if self.is_idle() {
                return;
            }
            acked.await;
        }
    }

    /// When the newest event was entered, if any.
    pub fn last_entered_at(&self) -> Option<Instant> {
        self.lock().last_entered_at
    }

    /// Since when there are unacked frames without an ack or a failed delivery.
    pub fn waiting_since(&self) -> Option<Instant> {
        let state = self.lock();
        (!state.entries.is_empty()).then_some(state.last_progress_at)
    }

    /// The bytes of all frames that are in the ledger.
    pub fn held_bytes(&self) -> usize {
        let state = self.lock();
        state.entries.iter().map(|entry| entry.frames.bytes()).sum()
    }

    /// The bytes of all acked frames, in total.
    pub fn acked_bytes(&self) -> usize {
        self.lock().acked_bytes
    }

    /// The number of failed deliveries, in total.
    pub fn delivery_failures_total(&self) -> u64 {
        self.lock().delivery_failures_total
    }

    fn ack(&self, lease: &Lease, position: Position) {
        {
            let mut state = self.lock();
            let Some(index) = state.leased(lease) else {
                return;
            };
            let leaps = lease.leaps;
            state.entries[index].state = EntryState::Acked { position, leaps };
            state.last_progress_at = Instant::now();
            state.pop_acked();
        }
        self.acked.notify_waiters();
    }

    fn release(&self, lease: &Lease) {
        {
            let mut state = self.lock();
            let Some(index) = state.leased(lease) else {
                return;
            };
            state.entries[index].state = EntryState::Unacked;
            state.unacked.insert(lease.first_frame);
            if lease.in_progress {
                state.record_delivery_failure(index, lease.marker.frame());
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
        // No code under the lock can panic between two writes that belong together.
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

    /// The entry to which `lease` still belongs. Lease ids are unique across epochs.
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
            leaps: self.leaps,
            gap,
        };
        self.paused = !self.positioned;
        self.last_progress_at = Instant::now();
        // This includes entries that were acked behind an unacked one: the stages expect every
        // number in turn, and applying an entry twice changes nothing.
        self.unacked.clear();
        for entry in &mut self.entries {
            entry.state = EntryState::Unacked;
            self.unacked.insert(entry.frames.first_frame);
        }
    }

    fn pop_acked(&mut self) {
        while let Some(EntryState::Acked { position, leaps }) =
            self.entries.front().map(|entry| &entry.state)
        {
            (self.acked_through, self.leaps) = (*position, *leaps);
            let acked = self.entries.pop_front();
            self.acked_bytes += acked.map_or(0, |entry| entry.frames.bytes());
        }
    }

    /// Records that a handler failed while it processed this entry, at the frame that `marker`
    /// names. This frame is isolated; the other frames of the batch are not suspect.
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
        // The search for the poison frame has advanced, so this counts as progress.
        self.last_progress_at = Instant::now();
    }

    /// Cuts a batch with repeated failures in two, if no marker named the frame. Both halves stay
    /// suspect: each further failure cuts again, so a batch of n frames yields its poison frame
    /// after about log₂ n failures.
    fn halve_if_suspect(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        if entry.delivery_failures < DELIVERY_FAILURE_LIMIT || entry.frames.len() < 2 {
            return;
        }
        entry.delivery_failures = DELIVERY_FAILURE_LIMIT - 1;
        let half = entry.frames.len() / 2;
        self.cut(index, half);
    }

    /// Cuts the frames from index `at` on off an entry that is not leased, into a new entry.
    /// Returns whether there were frames on both sides.
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
