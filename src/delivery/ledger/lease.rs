//! The duty to settle a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{EpochStart, Ledger};
use crate::model::Position;

/// The duty to settle a batch. Dropped unsettled, the batch is unacked again.
#[derive(Debug)]
pub struct Lease {
    pub(super) ledger: Arc<Ledger>,
    pub(super) id: u64,
    pub(super) epoch: EpochStart,
    pub(super) first_frame: u64,
    pub(super) delivery_failures: u32,
    pub(super) in_progress: bool,
    pub(super) marker: ProgressMarker,
    pub(super) acked: bool,
}

/// Tells, from whatever thread handles a batch, at which of its frames the handler is.
#[derive(Clone, Debug)]
pub struct ProgressMarker(Arc<AtomicU64>);

/// No frame has this number.
const NOWHERE: u64 = u64::MAX;

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
        self.delivery_failures > 0
    }

    /// Says that a handler works on the batch: should it die now, the batch may be the reason, or
    /// the one frame of it at which the marker was last.
    pub fn start(&mut self) {
        self.in_progress = true;
    }

    pub fn marker(&self) -> ProgressMarker {
        self.marker.clone()
    }

    /// Says that the batch only waits, in a mailbox or a buffer.
    pub fn finish(&mut self) {
        self.in_progress = false;
        self.marker.is_at(NOWHERE);
    }

    /// The batch's effects are durable, or it needed none; `position` is the place behind it.
    pub fn ack(mut self, position: Position) {
        self.acked = true;
        self.ledger.ack(&self, position);
    }

    /// Tells the ledger that the next stage is down: see [`Ledger::pause`].
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

    pub(super) fn place(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|frame| *frame != NOWHERE)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.acked {
            self.ledger.give_back(self);
        }
    }
}
