//! The lease of a batch: the obligation to ack it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{EpochStart, Ledger};
use crate::delivery::sequence::Leaps;
use crate::model::Position;

/// The obligation to ack a batch. If it is dropped without an ack, the batch is unacked again and
/// is handed out once more.
#[derive(Debug)]
pub struct Lease {
    pub(super) ledger: Arc<Ledger>,
    pub(super) id: u64,
    pub(super) epoch: EpochStart,
    pub(super) first_frame: u64,
    pub(super) delivery_failures: u32,
    pub(super) in_progress: bool,
    pub(super) marker: ProgressMarker,
    /// What is known of leaps after the batch.
    pub(super) leaps: Leaps,
    pub(super) acked: bool,
}

/// Records the frame that the handler of a batch is processing. It can be set from any thread.
#[derive(Clone, Debug)]
pub struct ProgressMarker(Arc<AtomicU64>);

/// A number that no frame has.
const NOWHERE: u64 = u64::MAX;

impl Lease {
    pub fn epoch(&self) -> EpochStart {
        self.epoch
    }

    /// Whether a newer epoch has made this lease void.
    pub fn is_stale(&self) -> bool {
        self.ledger.epoch().epoch != self.epoch.epoch
    }

    /// Whether a handler failed while it processed this batch. The batch is then processed alone,
    /// so that a further failure can only be caused by it.
    pub fn is_suspect(&self) -> bool {
        self.delivery_failures > 0
    }

    /// Marks that a handler processes the batch. If the handler fails from now on, the batch may be
    /// the cause, or the one frame that the marker names.
    pub fn start(&mut self) {
        self.in_progress = true;
    }

    pub fn marker(&self) -> ProgressMarker {
        self.marker.clone()
    }

    /// Marks that the batch only waits, in a mailbox or a buffer.
    pub fn finish(&mut self) {
        self.in_progress = false;
        self.marker.is_at(NOWHERE);
    }

    /// Notes what is known of leaps after the batch. The ledger keeps it with the position, so that a
    /// stage that starts anew does not need more witnesses of a leap than its predecessor.
    pub fn note_leaps(&mut self, leaps: Leaps) {
        self.leaps = leaps;
    }

    /// Acks the batch: its effects are durable, or it has none. `position` is the position after
    /// the batch.
    pub fn ack(mut self, position: Position) {
        self.acked = true;
        self.ledger.ack(&self, position);
    }

    /// Tells the ledger that the next stage is down; see [`Ledger::pause`].
    pub fn pause_ledger(&self) {
        self.ledger.pause(self.epoch.epoch);
    }
}

impl ProgressMarker {
    pub(super) fn nowhere() -> Self {
        Self(Arc::new(AtomicU64::new(NOWHERE)))
    }

    pub fn is_at(&self, frame: u64) {
        self.0.store(frame, Ordering::Relaxed);
    }

    pub(super) fn frame(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|frame| *frame != NOWHERE)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.acked {
            self.ledger.release(self);
        }
    }
}
