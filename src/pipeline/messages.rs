//! What travels from the decoders through the filter to the indexer.

use std::ops::Range;

use tokio::time::Instant;

use crate::delivery::budget::Charge;
use crate::delivery::ledger::Lease;
use crate::model::{DeadLetter, Position};
use crate::store::plan::effect::{Effect, Recheck};

/// What one batch of frames says.
#[derive(Debug)]
pub struct DecodedBatch {
    pub lease: Lease,
    /// The numbers of the segments that were read.
    pub numbers: Range<u64>,
    /// How many frames of the stream they stand for.
    pub events: u64,
    pub received_at: Instant,
    /// In the order of the source.
    pub items: Vec<DecodedItem>,
    /// The position of the last frame that has one.
    pub last: Option<Position>,
    /// What the items weigh beside the frames themselves.
    pub charge: Charge,
}

/// Something that the filter has to look at.
#[derive(Debug)]
pub enum DecodedItem {
    /// The stream stands here: told of the first frame, behind a joint, and wherever the seqs do not rise.
    At(Position),
    DeadLetter(Box<DeadLetter>),
    Recheck(Recheck),
    /// What follows came by another connection, and is to begin with the last of what was before.
    ReconnectMarker,
    /// The stream had come so far where its seqs cease to rise.
    Reached(Position),
    /// The source says that it no longer holds what follows the cursor.
    OutdatedCursor,
    Work(Work),
}

/// What one event asks of the tables; never nothing.
#[derive(Debug)]
pub struct Work {
    pub position: Option<Position>,
    pub effects: Vec<Effect>,
}
