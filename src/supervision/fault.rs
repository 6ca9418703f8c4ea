//! The one seam at which tests make actors fail. Without a plan, which is always in production, each
//! point costs one branch.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorProcessingErr};

/// A place in an actor's work at which it may be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    ConnectionStart,
    /// Before it dials or reads.
    ConnectionStep,
    /// Frames have left the socket and are not entered yet.
    ConnectionRead,
    CursorStart,
    CursorMessage,
    /// A checkpoint is durable, and nobody knows.
    CursorCheckpointed,
    DecoderStart,
    /// A batch is in hand.
    DecoderLeased,
    /// The batch was passed on.
    DecoderPassedOn,
    FilterStart,
    /// A batch was taken from the mailbox.
    FilterTaken,
    /// All that could be released was passed on.
    FilterPassedOn,
    HousekeepingMessage,
    IndexerStart,
    IndexerMessage,
    /// A transaction is cut and in hand.
    IndexerCut,
    /// It is committed, and its leases are not settled.
    IndexerCommitted,
    /// Its leases are settled.
    IndexerSettled,
    /// The supervisor is about to start a child.
    Spawn,
    /// The child stands and can be reached; the ledger does not know yet.
    Spawned,
}

impl Point {
    pub const ALL: [Self; 20] = [
        Self::ConnectionStart,
        Self::ConnectionStep,
        Self::ConnectionRead,
        Self::CursorStart,
        Self::CursorMessage,
        Self::CursorCheckpointed,
        Self::DecoderStart,
        Self::DecoderLeased,
        Self::DecoderPassedOn,
        Self::FilterStart,
        Self::FilterTaken,
        Self::FilterPassedOn,
        Self::HousekeepingMessage,
        Self::IndexerStart,
        Self::IndexerMessage,
        Self::IndexerCut,
        Self::IndexerCommitted,
        Self::IndexerSettled,
        Self::Spawn,
        Self::Spawned,
    ];
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Delay(Duration),
    Error,
    /// The actor is killed at its next await, as the supervisor would kill it.
    Kill,
    Panic,
    /// The handler never ends by itself.
    Stall,
}

/// Decides what fails when.
pub trait FaultPlan: Send + Sync + 'static {
    /// Asked each time a point is passed.
    fn strike(&self, point: Point) -> Option<Fault>;

    /// Called with each frame that a decoder is about to read, on the thread that reads it. May do
    /// whatever a frame that breaks its reader would do: panic, hang, end the process.
    fn touch(&self, _frame: &[u8]) {}
}

/// The plan, if there is one.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<dyn FaultPlan>>);

impl Faults {
    pub fn planned(plan: Arc<dyn FaultPlan>) -> Self {
        Self(Some(plan))
    }

    /// A decoder is about to read `frame`.
    #[inline]
    pub fn touch(&self, frame: &[u8]) {
        if let Some(plan) = &self.0 {
            plan.touch(frame);
        }
    }

    /// Passes `point` in `actor`.
    ///
    /// # Errors
    /// Where the plan has the actor fail with an error.
    #[inline]
    pub async fn pass(&self, point: Point, actor: ActorCell) -> Result<(), ActorProcessingErr> {
        match &self.0 {
            None => Ok(()),
            Some(plan) => strike(plan.strike(point), point, actor).await,
        }
    }
}

async fn strike(
    fault: Option<Fault>,
    point: Point,
    actor: ActorCell,
) -> Result<(), ActorProcessingErr> {
    match fault {
        None => Ok(()),
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            Ok(())
        }
        Some(Fault::Error) => Err(format!("injected error at {point:?}").into()),
        Some(Fault::Kill) => {
            actor.kill();
            std::future::pending().await
        }
        Some(Fault::Panic) => std::panic::panic_any(format!("injected panic at {point:?}")),
        Some(Fault::Stall) => std::future::pending().await,
    }
}
