//! Reads frames one by one after the process has crashed again and again. Each is marked in the
//! database while it is read, so that the next run knows which one ended this one.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::JoinError;

use super::beside_the_runtime;
use super::reader::{self, Reading};
use crate::delivery::ledger::{FrameBatch, FrameSpan, SUSPICION_LIMIT};
use crate::pipeline::Context;
use crate::store::FrameDigest;

/// A mark that takes longer is done without.
const MARK_DEADLINE: Duration = Duration::from_secs(1);

/// Reads `batch`, which is one frame, while no other decoder reads any.
pub(super) async fn read(
    context: &Arc<Context>,
    batch: &mut FrameBatch,
) -> Result<Reading, JoinError> {
    let _nobody_else = context.reading_alone.lock().await;
    let digest = digest(&batch.frames);
    if crashes_with(context, &digest) >= SUSPICION_LIMIT {
        return Ok(reader::give_up(context, &batch.frames));
    }
    mark(context, Some(digest)).await;
    batch.lease.take_in_hand();
    let (frames, witness) = (batch.frames.clone(), batch.lease.witness());
    let beside = context.clone();
    let reading = beside_the_runtime(move || reader::read(&beside, &frames, &witness)).await;
    mark(context, None).await;
    reading
}

fn digest(frames: &FrameSpan) -> FrameDigest {
    let mut hash = Sha256::new();
    for frame in frames.frames() {
        hash.update(frame);
    }
    hash.finalize().into()
}

fn crashes_with(context: &Context, frame: &FrameDigest) -> u32 {
    let history = context.crash_history.get();
    history
        .and_then(|history| history.suspects.get(frame))
        .copied()
        .unwrap_or(0)
}

async fn mark(context: &Context, frame: Option<FrameDigest>) {
    let mark = context.store.mark_in_hand(context.source.id(), frame);
    // Without it this frame can't be accused, which is no reason to hold the stream up. That the
    // database is in trouble is told by those who need it.
    let _unmarked = tokio::time::timeout(MARK_DEADLINE, mark).await;
}
