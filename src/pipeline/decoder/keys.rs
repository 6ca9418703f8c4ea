//! Holds a batch until the keys of its accounts are known, for a short time.
//!
//! What waits here is in the ledger: it is charged to the budget, the cursor does not pass it, and if
//! the decoder dies, the batch is handed out again. What is not known in time is parked in the tables.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::atproto::skim::{Kind, Skim, skim};
use crate::atproto::syntax::Did;
use crate::delivery::ledger::FrameBatch;
use crate::pipeline::Context;

/// How long after its arrival a batch waits at most. The look-ups of all that has arrived run at the
/// same time, so a slow directory delays the stream by so much, but does not slow it down.
const HOLD: Duration = Duration::from_secs(2);

/// Waits until the keys of the accounts of `batch` are known, or cannot be known soon.
pub(super) async fn wait(context: &Context, batch: &FrameBatch) {
    let Some(verification) = &context.processor.verification else {
        return;
    };
    if batch.is_poison {
        return;
    }
    let signers = batch.frames.frames().filter_map(|frame| signer(frame));
    let dids: BTreeSet<Did> = signers
        .filter(|did| context.allows_early_look_up(did))
        .collect();
    let dids: Vec<Did> = dids.into_iter().collect();
    let deadline = batch.received_at + HOLD;
    verification.identities.settle(&dids, deadline).await;
}

/// The repository of a commit or a `#sync`. A frame that makes the skimmer panic is left to the
/// decoder, which finds out which one it is.
fn signer(frame: &[u8]) -> Option<Did> {
    let skimmed = catch_unwind(AssertUnwindSafe(|| skim(frame)));
    match skimmed.ok()?.ok()? {
        Skim::Message(envelope) if matches!(envelope.kind, Kind::Commit | Kind::Sync) => {
            Did::parse(envelope.did?).ok()
        }
        _ => None,
    }
}
