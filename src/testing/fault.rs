//! The fault points at which tests make the worker fail. Without a plan, as always in production,
//! each point costs one branch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A point at which a test can make the work fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    BackfillStart,
    BackfillStep,
    /// A command is noted as running, and nothing of it is done.
    CommandBegun,
    /// What became of a command, or of a piece of it, is durable.
    CommandEnded,
    CommandStart,
    ConsumerStart,
    /// Before a consumer of a queue does its next step.
    ConsumerStep,
    ConnectionStart,
    /// Before the connection dials or reads.
    ConnectionStep,
    /// Frames have left the socket and are not in the ledger yet.
    ConnectionRead,
    CursorStart,
    CursorMessage,
    /// A checkpoint is durable, and the actor has not recorded it yet.
    CursorCheckpointed,
    DecoderStart,
    /// The decoder has a batch under lease.
    DecoderLeased,
    /// The decoder has passed the batch on.
    DecoderPassedOn,
    /// All batches are acked, and the last checkpoint is not written.
    DrainSettled,
    /// The last checkpoint is written, and the actors are still running.
    DrainCheckpointed,
    FilterStart,
    /// The filter has taken a batch from its mailbox.
    FilterTaken,
    /// The filter has passed on everything that could be released.
    FilterPassedOn,
    HandlesStart,
    /// Before the next handles are looked for.
    HandlesStep,
    /// Some handles are checked, and nothing of it is written.
    HandlesChecked,
    /// What a check has found is durable; the checks that were made with it may not be.
    HandlesNoted,
    HousekeepingMessage,
    IndexerStart,
    IndexerMessage,
    /// The indexer has formed a transaction.
    IndexerCut,
    /// The transaction is committed, and its leases are not acked.
    IndexerCommitted,
    /// The leases of the transaction are acked.
    IndexerSettled,
    PresenceBeat,
    PresenceStart,
    RepositoriesStart,
    RepositoriesMessage,
    SinkStart,
    /// Before a sink does its next step.
    SinkStep,
    /// The supervisor is about to start a child.
    Spawn,
    /// The child is running and reachable; the ledger does not know yet.
    Spawned,
    /// A transaction holds the write lock.
    StoreBegun,
    /// The transaction is durable, and its owner does not know yet.
    StoreCommitted,
    /// The transaction is completely written, and not durable yet.
    StoreCommitting,
    /// Before each migration, including those that were applied earlier.
    StoreMigrating,
    /// Between two statements of a batch.
    StoreWriting,
    /// A step of a `reprocess` is durable, and its progress is not noted yet.
    ReprocessStepped,
    /// A child has ended, and the supervisor does not know yet.
    SupervisorEvent,
    SupervisorMessage,
    UpkeepStart,
    UpkeepTick,
}

impl Point {
    /// The points that actors pass with any kind of store.
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

/// The effect of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Delay(Duration),
    Error,
    /// The actor is killed at its next await, as the supervisor would kill it. Without an actor at
    /// hand, this is a stall.
    Kill,
    Panic,
    /// The handler never returns by itself.
    Stall,
}

/// Decides which point fails, and when.
pub trait FaultPlan: Send + Sync + 'static {
    /// Called each time a point is passed.
    fn strike(&self, point: Point) -> Option<Fault>;

    /// Called with each frame that a decoder is about to read, and each task that a consumer is about to
    /// apply, on the thread that does so. It may simulate a harmful one: panic, hang, or end the process.
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

    /// Whether there is a plan.
    #[inline]
    pub(crate) fn are_planned(&self) -> bool {
        self.0.is_some()
    }

    /// Called when a decoder is about to read `frame`, or a consumer to apply a task.
    #[inline]
    pub fn touch(&self, frame: &[u8]) {
        if let Some(plan) = &self.0 {
            plan.touch(frame);
        }
    }

    /// Passes `point` without an actor that could be killed.
    ///
    /// # Errors
    /// If the plan makes it fail with an error.
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
