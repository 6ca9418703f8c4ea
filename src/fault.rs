//! The one seam at which tests make the worker fail. Without a plan, which is always in production,
//! each point costs one branch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A place at which work may be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    BackfillStart,
    BackfillStep,
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
    /// All that was read is settled, and the last checkpoint is not written.
    DrainSettled,
    /// It is written, and the actors still stand.
    DrainCheckpointed,
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
    RepositoriesStart,
    RepositoriesMessage,
    /// The supervisor is about to start a child.
    Spawn,
    /// The child stands and can be reached; the ledger does not know yet.
    Spawned,
    /// A transaction holds the write lock.
    StoreBegun,
    /// It is durable, and its owner has not heard.
    StoreCommitted,
    /// All of it is written, and nothing is durable.
    StoreCommitting,
    /// Before each migration, also where it was applied long ago.
    StoreMigrating,
    /// Between two statements of a batch.
    StoreWriting,
    /// A child has ended, and the supervisor has not heard of it yet.
    SupervisorEvent,
    SupervisorMessage,
}

impl Point {
    /// Those that actors pass, whatever store they have.
    pub const IN_ACTORS: [Self; 22] = [
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
        Self::SupervisorEvent,
        Self::SupervisorMessage,
    ];
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Delay(Duration),
    Error,
    /// The actor is killed at its next await, as the supervisor would kill it. Where none is at
    /// hand, this is a stall.
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

/// The error of [`Fault::Error`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("injected error at {0:?}")]
pub struct Injected(Point);

impl Faults {
    pub fn planned(plan: Arc<dyn FaultPlan>) -> Self {
        Self(Some(plan))
    }

    /// Whether anything may be made to fail.
    #[inline]
    pub(crate) fn are_planned(&self) -> bool {
        self.0.is_some()
    }

    /// A decoder is about to read `frame`.
    #[inline]
    pub fn touch(&self, frame: &[u8]) {
        if let Some(plan) = &self.0 {
            plan.touch(frame);
        }
    }

    /// Passes `point`, with no actor at hand to be killed.
    ///
    /// # Errors
    /// Where the plan has it fail with an error.
    #[inline]
    pub async fn pass_without_actor(&self, point: Point) -> Result<(), Injected> {
        match self.strike(point) {
            None => Ok(()),
            Some(fault) => fault.happen(point).await,
        }
    }

    #[inline]
    pub(crate) fn strike(&self, point: Point) -> Option<Fault> {
        self.0.as_ref().and_then(|plan| plan.strike(point))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planned = if self.0.is_some() { "planned" } else { "none" };
        write!(f, "Faults({planned})")
    }
}

impl Fault {
    pub(crate) async fn happen(self, point: Point) -> Result<(), Injected> {
        match self {
            Self::Delay(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Self::Error => Err(Injected(point)),
            Self::Kill | Self::Stall => std::future::pending().await,
            Self::Panic => std::panic::panic_any(format!("injected panic at {point:?}")),
        }
    }
}
