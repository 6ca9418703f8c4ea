//! The state of the worker as its operator sees it: plain values, written by the actors once a
//! batch, read by `/status` and `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::source::Position;

/// The shared copy of the [`Status`].
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<Status>>);

impl StatusBoard {
    /// A consistent copy.
    pub fn snapshot(&self) -> Status {
        self.lock().clone()
    }

    /// Changes the status in place. `change` must be short: readers wait for it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        // Every field is valid by itself, so a writer that panicked half-way did no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub started_at: Option<Timestamp>,
    /// Set once the worker has been told to stop.
    pub draining: bool,
    /// The supervisor's children by name.
    pub actors: BTreeMap<String, ActorStatus>,
    /// The sources by id.
    pub sources: BTreeMap<String, SourceStatus>,
    pub queue: QueueStatus,
    pub budget: BudgetStatus,
}

#[derive(Clone, Debug, Serialize)]
pub struct ActorStatus {
    pub state: ActorState,
    pub restarts: u64,
    pub last_failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    Running,
    /// Failed, and waiting for its backoff to end.
    BackingOff,
    Stopped,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub at: Timestamp,
    pub reason: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceStatus {
    pub connection: ConnectionState,
    /// Connections made after the first one.
    pub reconnects: u64,
    pub last_frame_at: Option<Timestamp>,
    /// The newest event read from the socket.
    pub received: Position,
    /// Everything up to here is durable in the tables; what the cursor says.
    pub applied: Position,
    pub applied_at: Option<Timestamp>,
    pub events: u64,
    pub matched: u64,
    pub open_gaps: u64,
}

impl SourceStatus {
    /// How far the tables are behind the newest event received, in seconds of the source's clock.
    pub fn lag_seconds(&self) -> Option<f64> {
        let behind = self.received.time?.duration_since(self.applied.time?);
        Some(behind.as_secs_f64().max(0.0))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ConnectionState {
    #[default]
    Starting,
    Connecting,
    Connected {
        since: Timestamp,
    },
    /// Lost or refused; the next attempt is at `until`.
    BackingOff {
        until: Timestamp,
        reason: String,
    },
    Stopped,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStatus {
    /// Effects that wait for a transaction.
    pub depth: u64,
    pub applied: u64,
    pub dead_letters: u64,
    /// Since when, and why, the database takes nothing.
    pub blocked: Option<Failure>,
    pub last_commit_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct BudgetStatus {
    pub limit_bytes: u64,
    pub in_flight_bytes: u64,
}
