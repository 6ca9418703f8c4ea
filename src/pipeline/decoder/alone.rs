//! Reads frames one by one after the process has crashed repeatedly. Each frame is marked in the
//! database while it is read, so that the next run knows at which frame this run ended.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::JoinError;

use super::batch_decoder::{self, DecodedSpan};
use super::beside_the_runtime;
use crate::delivery::ledger::{DELIVERY_FAILURE_LIMIT, FrameBatch, FrameSpan};
use crate::pipeline::Context;
use crate::store::FrameDigest;

/// After this time the frame is read without a mark.
const MARK_DEADLINE: Duration = Duration::from_secs(1);

/// Reads `batch`, which is one frame, while no other decoder reads.
pub(super) async fn read(
    context: &Arc<Context>,
    batch: &mut FrameBatch,
) -> Result<DecodedSpan, JoinError> {
    let _alone = context.single_frame_lock.lock().await;
    let digest = digest(&batch.frames);
    if crashes_with(context, &digest) >= DELIVERY_FAILURE_LIMIT {
        return Ok(batch_decoder::give_up(
            context,
            &batch.frames,
            batch.received_at,
        ));
    }
    mark(context, Some(digest)).await;
    batch.lease.start();
    let (frames, marker) = (batch.frames.clone(), batch.lease.marker());
    let (beside, received_at) = (context.clone(), batch.received_at);
    let decoded =
        beside_the_runtime(move || batch_decoder::read(&beside, &frames, received_at, &marker));
    let decoded = decoded.await;
    mark(context, None).await;
    decoded
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
    let mark = context.store.mark_in_progress(context.source.id(), frame);
    // Without the mark a crash is not counted against this frame. That is no reason to stop the
    // stream. The actors that write to the database report why it fails.
    let _unmarked = tokio::time::timeout(MARK_DEADLINE, mark).await;
}
