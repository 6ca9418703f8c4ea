//! What the ledger hands out: batches of frames, and the epochs that they belong to.

use tokio::time::Instant;

use super::{FrameSpan, Lease};
use crate::delivery::sequence::Leaps;
use crate::model::{GapCause, Position};

/// The start of an epoch. Stages discard everything that was handed out in an earlier epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u64,
    /// The number of the first frame that is handed out in this epoch.
    pub first_frame: u64,
    /// The acked position before that frame.
    pub position: Position,
    /// What is known of leaps at that position.
    pub leaps: Leaps,
    /// Why events between `position` and the first event may be missing; `None` if none are
    /// missing.
    pub gap: Option<GapCause>,
}

/// Frames to process, and the lease to ack them.
#[derive(Debug)]
pub struct FrameBatch {
    pub lease: Lease,
    pub frames: FrameSpan,
    pub received_at: Instant,
    /// The batch was handed out before, and that delivery failed.
    pub is_redelivery: bool,
    /// This single frame made every handler fail. It must be kept as a dead letter without being
    /// read.
    pub is_poison: bool,
    /// Frames are handed out one by one; see [`Ledger::hand_out_singly`](super::Ledger::hand_out_singly).
    pub is_alone: bool,
}
