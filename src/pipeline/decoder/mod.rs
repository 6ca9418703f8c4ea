//! The DecoderActors: turn frames into effects. They are stateless and take the ledger's batches as
//! they come free, so how many there are and which of them die is all one.
//!
//! Beyond the skim at the socket they alone touch bytes from outside, and they do so beside the
//! runtime: a frame that hangs whoever reads it costs a thread, and neither the actor nor the runtime.

mod alone;
mod counts;
mod reader;

use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

use self::reader::DecodedSpan;
use super::Context;
use super::messages::DecodedBatch;
use crate::actor::address::Address;
use crate::actor::{ActorContext, Arguments};
use crate::delivery::ledger::FrameBatch;
use crate::testing::fault::Point;

/// See the module.
pub struct DecoderActor;

/// There may be something to decode.
#[derive(Debug)]
pub struct WorkAvailable;

/// Calls a decoder to work. Ringing it again before it comes does nothing more, so the decoder's
/// mailbox never holds more than one call.
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
            let _busy = state.context.begin(Point::DecoderLeased).await?;
            let decoded = state.read(&mut batch).await?;
            state.pass_on(batch, decoded);
            state.context.pass(Point::DecoderPassedOn).await?;
        }
        // One batch a message: between two of them the actor can be stopped.
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
        if batch.is_redelivery {
            context.metrics.redelivered.increment(1);
        }
        if batch.is_poison {
            return Ok(reader::give_up(&context, &batch.frames));
        }
        if batch.frames.frames().next().is_none() {
            return Ok(reader::pass(&context, &batch.frames));
        }
        if batch.is_alone {
            return alone::read(&context, batch).await;
        }
        batch.lease.start();
        let (frames, marker) = (batch.frames.clone(), batch.lease.marker());
        beside_the_runtime(move || reader::read(&context, &frames, &marker)).await
    }

    fn pass_on(&self, mut batch: FrameBatch, decoded: DecodedSpan) {
        batch.lease.finish();
        let decoded = DecodedBatch {
            lease: batch.lease,
            numbers: batch.frames.numbers(),
            events: batch.frames.events(),
            received_at: batch.received_at,
            last: decoded.last,
            charge: self.context.budget.charge(decoded.weight),
            items: decoded.items,
        };
        if let Err(refused) = self.context.filter.cast(decoded) {
            refused.lease.pause_ledger();
        }
    }
}

/// Runs `work` on a thread that may hang. Where the runtime has but one thread, `work` runs on it:
/// such a runtime is a test's, which wants to come out the same each time.
async fn beside_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => spawn_blocking(work).await,
    }
}

impl Wakeup {
    /// Has the wakeup call `decoder`, at once and from now on.
    fn attach(&self, decoder: ActorRef<WorkAvailable>) {
        self.decoder.set(decoder);
        // The call that its predecessor did not answer went down with it.
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
