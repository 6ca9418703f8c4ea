//! What the CommandActor shares with those who give commands.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::scope::Scope;
use super::{CommandMessage, Role};
use crate::actor::address::Address;
use crate::model::{CommandRow, NewCommand, Submitted};
use crate::store::StoreError;

/// The commands of a worker that runs.
pub struct Commands {
    pub scope: Scope,
    pub address: Address<CommandMessage>,
    /// Rises with each step of the CommandActor.
    changes: watch::Sender<u64>,
}

/// Who gives a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As in the audit.
    pub name: String,
    pub role: Role,
}

impl Commands {
    pub fn new(scope: Scope) -> Arc<Self> {
        Arc::new(Self {
            scope,
            address: Address::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// Writes a command, and wakes the CommandActor.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn submit(&self, new: &NewCommand) -> Result<Submitted, StoreError> {
        let submitted = self.scope.store.submit_command(new).await?;
        self.wake();
        Ok(submitted)
    }

    /// Waits until the command has ended, at most for `limit`, and only as long as the pipeline is not being
    /// stopped for a command: this process goes on with it then, but not its servers. `None` if there is no
    /// such command.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ended(&self, id: i64, limit: Duration) -> Result<Option<CommandRow>, StoreError> {
        let deadline = Instant::now() + limit;
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let row = self.scope.store.command(id).await?;
            let is_open = row.as_ref().is_some_and(|row| !row.state.is_ended());
            if !is_open
                || self.is_leaving()
                || timeout_at(deadline, changes.changed()).await.is_err()
            {
                return Ok(row);
            }
        }
    }

    /// Whether the process was asked to stop the pipeline, or to end.
    fn is_leaving(&self) -> bool {
        let live = self.scope.live.as_ref();
        live.is_some_and(|live| live.asked.borrow().is_some())
    }

    /// Has the CommandActor look for commands.
    pub fn wake(&self) {
        // If it is down, its successor looks when it starts.
        let _unsent = self.address.cast(CommandMessage::Look);
    }

    pub(super) fn note_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}
