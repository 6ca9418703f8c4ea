//! The messages from the decoders through the filter to the indexer.

use std::ops::Range;

use tokio::time::Instant;

use crate::delivery::ledger::Lease;
use crate::delivery::segment::Requested;
use crate::delivery::sequence::Account;
use crate::model::{DeadLetter, Position};
use crate::store::plan::effect::{Effect, Recheck};

/// The content of one batch of frames.
#[derive(Debug)]
pub struct DecodedBatch {
    pub lease: Lease,
    /// The numbers of the segments in the batch.
    pub numbers: Range<u64>,
    /// The number of the stream's frames in the batch, those of skipped runs included.
    pub events: u64,
    pub received_at: Instant,
    /// In the order of the source.
    pub items: Vec<DecodedItem>,
    /// The position of the last frame that has one.
    pub last: Option<Position>,
}

/// One thing that the filter handles.
#[derive(Debug)]
pub enum DecodedItem {
    /// The position of a frame, and its account if it was read. It is given for the first frame,
    /// for the frames after a reconnect marker or a jump of the seqs, and for each frame whose seq
    /// is not higher than the one before.
    At(Position, Option<Account>),
    DeadLetter(Box<DeadLetter>),
    Recheck(Recheck),
    /// The next frames came by a new connection.
    ReconnectMarker(Requested),
    /// The position of the last frame before one whose seq is not higher, or far higher.
    Reached(Position),
    /// The source has said that it no longer holds the events after the cursor.
    OutdatedCursor,
    Work(Work),
}

/// The effects of one event. There is at least one.
#[derive(Debug)]
pub struct Work {
    pub position: Option<Position>,
    pub effects: Vec<Effect>,
}
