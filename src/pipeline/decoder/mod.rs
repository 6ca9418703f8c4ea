//! The DecoderActors: turn frames into effects. They have no state, and each takes the ledger's
//! next batch when it is free. So the result does not depend on their number, or on which of them
//! die.
//!
//! Apart from the skim at the socket, only decoders read bytes of the stream. They do so on threads
//! beside the runtime: a frame that hangs its reader costs one thread, but neither the actor nor
//! the runtime.

mod alone;
mod batch_decoder;
mod counts;
mod keys;

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

use self::batch_decoder::DecodedSpan;
use super::Context;
use super::messages::DecodedBatch;
use crate::actor::address::Address;
use crate::actor::{ActorContext, Arguments};
use crate::delivery::ledger::{FrameBatch, FrameSpan};
use crate::source::process::DECODING_GROWTH;
use crate::testing::fault::Point;

/// Decodes one batch for each message.
pub struct DecoderActor;

/// Says that there may be a batch to decode.
#[derive(Debug)]
pub struct WorkAvailable;

/// Calls a decoder to work. Several calls before it answers count as one, so its mailbox never
/// holds more than one.
#[derive(Debug, Default)]
pub struct Wakeup {
    decoder: Address<WorkAvailable>,
    is_pending: AtomicBool,
}

pub struct DecoderState {
    context: ActorContext<Context>,
    index: usize,
}

impl Actor for DecoderActor {
    type Msg = WorkAvailable;
    type State = DecoderState;
    type Arguments = (Arguments<Context>, usize);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (arguments, index): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::DecoderStart).await?;
        let state = DecoderState { context, index };
        state.wakeup().attach(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        WorkAvailable: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.wakeup().take();
        if let Some(mut batch) = state.context.ledger.lease_next() {
            keys::wait(&state.context, &batch).await;
            let _busy = state.context.begin(Point::DecoderLeased).await?;
            let decoded = state.read(&mut batch).await?;
            state.pass_on(batch, decoded);
            state.context.pass(Point::DecoderPassedOn).await?;
        }
        // One batch for each message, so that the actor can be stopped between two batches.
        if state.context.ledger.has_unacked() {
            state.wakeup().wake();
        }
        Ok(())
    }
}

impl DecoderState {
    fn wakeup(&self) -> &Wakeup {
        &self.context.decoders[self.index]
    }

    async fn read(&self, batch: &mut FrameBatch) -> Result<DecodedSpan, JoinError> {
        let context = self.context.shared().clone();
        let received_at = batch.received_at;
        if batch.is_redelivery {
            context.metrics.redelivered.increment(1);
        }
        if batch.is_poison {
            return Ok(batch_decoder::give_up(&context, &batch.frames, received_at));
        }
        if batch.frames.frames().next().is_none() {
            return Ok(batch_decoder::skip(&context, &batch.frames, received_at));
        }
        let _work = context
            .budget
            .reserve_work(decoding_bytes(&batch.frames))
            .await;
        if batch.is_alone {
            return alone::read(&context, batch).await;
        }
        batch.lease.start();
        let (frames, marker) = (batch.frames.clone(), batch.lease.marker());
        beside_the_runtime(move || batch_decoder::read(&context, &frames, received_at, &marker))
            .await
    }

    fn pass_on(&self, mut batch: FrameBatch, decoded: DecodedSpan) {
        batch.lease.finish();
        let decoded = DecodedBatch {
            lease: batch.lease,
            numbers: batch.frames.numbers(),
            events: batch.frames.events(),
            received_at: batch.received_at,
            last: decoded.last,
            items: decoded.items,
        };
        if let Err(refused) = self.context.filter.cast(decoded) {
            refused.lease.pause_ledger();
        }
    }
}

/// The bytes that decoding takes for a moment, besides what stays of the frames. They are decoded one
/// after another.
fn decoding_bytes(frames: &FrameSpan) -> usize {
    let longest = frames.frames().map(Bytes::len).max().unwrap_or_default();
    DECODING_GROWTH * longest
}

/// Runs `work` on a thread beside the runtime. In a runtime of one thread, `work` runs on that
/// thread: such runtimes exist in tests, which must give the same result each time.
async fn beside_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => spawn_blocking(work).await,
    }
}

impl Wakeup {
    /// Makes the wakeup call `decoder` from now on, and calls it once.
    fn attach(&self, decoder: ActorRef<WorkAvailable>) {
        self.decoder.set(decoder);
        // A call that the predecessor has not answered was lost with its mailbox.
        self.is_pending.store(false, Ordering::Release);
        self.wake();
    }

    pub fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel)
            && self.decoder.cast(WorkAvailable).is_err()
        {
            self.is_pending.store(false, Ordering::Release);
        }
    }

    fn take(&self) {
        self.is_pending.store(false, Ordering::Release);
    }
}
