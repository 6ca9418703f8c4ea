//! The handle of a running tree: start it, kill a child, wait for its end.

use std::sync::{Arc, OnceLock};

use ractor::{Actor, ActorRef, SpawnErr};
use tokio::task::JoinHandle;

use super::actor::{Arguments, Supervisor, SupervisorMessage};
use super::{ChildSpec, Policy, Work};
use crate::telemetry::status::StatusBoard;
use crate::testing::fault::Faults;

/// A running tree. Dropping it leaves the actors running; [`Tree::stop`] ends them.
pub struct Tree {
    supervisor: ActorRef<SupervisorMessage>,
    handle: JoinHandle<()>,
    meltdown: Arc<OnceLock<String>>,
}

/// Why a tree ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("{0}")]
    Meltdown(String),

    #[error("the supervisor did not start: {0}")]
    Start(#[from] SpawnErr),
}

impl Tree {
    /// Starts the children in the order of `children`.
    ///
    /// # Errors
    /// If the supervisor itself does not start.
    pub async fn start(
        children: Vec<ChildSpec>,
        policy: Policy,
        work: Arc<dyn Work>,
        status: StatusBoard,
        faults: Faults,
    ) -> Result<Self, TreeError> {
        let meltdown = Arc::new(OnceLock::new());
        let arguments = Arguments {
            children,
            policy,
            work,
            status,
            faults,
            meltdown: meltdown.clone(),
        };
        let (supervisor, handle) = Actor::spawn(None, Supervisor, arguments).await?;
        Ok(Self {
            supervisor,
            handle,
            meltdown,
        })
    }

    /// Kills the child of that name, as a fault would.
    pub fn kill(&self, child: &str) {
        // A supervisor that has ended has ended the child too.
        let _ended = self.supervisor.cast(SupervisorMessage::Kill(child.into()));
    }

    /// Waits until the tree gives up. Returns the reason.
    pub async fn failed(&mut self) -> TreeError {
        // The reason that the supervisor has set, if any, says how it ended.
        let _ended = (&mut self.handle).await;
        let reason = self.meltdown.get().cloned();
        TreeError::Meltdown(
            reason.unwrap_or_else(|| "the supervisor ended without a reason".to_owned()),
        )
    }

    /// Ends the supervisor and its children, and waits for their end.
    pub async fn stop(self, reason: &str) {
        self.supervisor.stop(Some(reason.to_owned()));
        let _ended = self.handle.await;
    }
}
