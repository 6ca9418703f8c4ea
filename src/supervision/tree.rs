//! The tree from outside: start it, wait for it, drain it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorRef, SpawnErr};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::supervisor::{Role, Supervisor, SupervisorMessage};
use crate::actors::Context;
use crate::actors::cursor::CursorMessage;

/// How often an end that comes by itself is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A running tree.
pub struct Tree {
    context: Arc<Context>,
    supervisor: ActorRef<SupervisorMessage>,
    handle: JoinHandle<()>,
    meltdown: Arc<OnceLock<String>>,
}

/// Why a tree can't go on.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("the supervisor did not start: {0}")]
    Start(#[from] SpawnErr),

    #[error("{0}")]
    Meltdown(String),

    #[error(
        "draining met its deadline of {} s: what was not applied is read again at the next start",
        .0.as_secs()
    )]
    DrainDeadline(Duration),
}

impl Tree {
    /// Starts the actors; nothing is read before they stand.
    ///
    /// # Errors
    /// Where the supervisor itself does not start.
    pub async fn start(context: Arc<Context>) -> Result<Self, TreeError> {
        let bells = context.decoders.clone();
        context.ledger.on_owed(move || {
            for bell in bells.iter() {
                bell.ring();
            }
        });
        let meltdown = Arc::new(OnceLock::new());
        let arguments = (context.clone(), meltdown.clone());
        let (supervisor, handle) = Actor::spawn(None, Supervisor, arguments).await?;
        Ok(Self {
            context,
            supervisor,
            handle,
            meltdown,
        })
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Kills an actor, as a fault would.
    pub fn kill(&self, role: Role) {
        // A supervisor that is gone has taken the actor with it.
        let _gone = self.supervisor.cast(SupervisorMessage::Kill(role));
    }

    /// Returns when the tree has given up.
    pub async fn failed(&mut self) -> TreeError {
        // How the supervisor's task ended is told by the reason it left, if it left one.
        let _ended = (&mut self.handle).await;
        self.meltdown_error()
    }

    /// Returns once the source was reached and then brought nothing for `idle`, and all that it had
    /// brought is settled.
    pub async fn idle_for(&self, idle: Duration) {
        loop {
            let quiet_since = self
                .context
                .ledger
                .last_entered_at()
                .max(self.context.first_connected_at());
            if let Some(since) = quiet_since
                && since.elapsed() >= idle
                && self.context.ledger.is_idle()
            {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads no more, applies what was read, writes the cursor, and stops.
    ///
    /// # Errors
    /// Where the tree gave up or the deadline passed before all was applied. Nothing is lost by
    /// either: the cursor stands before what was not applied.
    pub async fn drain(mut self) -> Result<(), TreeError> {
        let limit = self.context.config.drain_timeout;
        let deadline = Instant::now() + limit;
        self.context.status.update(|status| status.draining = true);
        self.context.stop_reading.cancel();
        let settled = tokio::select! {
            settled = self.settled_by(deadline) => settled,
            _ended = &mut self.handle => return Err(self.meltdown_error()),
        };
        self.supervisor.stop(Some("drained".to_owned()));
        let _ended = (&mut self.handle).await;
        if settled {
            Ok(())
        } else {
            Err(TreeError::DrainDeadline(limit))
        }
    }

    async fn settled_by(&self, deadline: Instant) -> bool {
        let settled = async {
            self.context.ledger.idle().await;
            while !self.checkpoint().await {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout_at(deadline, settled).await.is_ok()
    }

    async fn checkpoint(&self) -> bool {
        let Some(cursor) = self.context.cursor.current() else {
            return false;
        };
        let asked = cursor.call(CursorMessage::Checkpoint, Some(Duration::from_secs(5)));
        matches!(asked.await, Ok(CallResult::Success(true)))
    }

    fn meltdown_error(&self) -> TreeError {
        TreeError::Meltdown(
            self.meltdown
                .get()
                .cloned()
                .unwrap_or_else(|| "the supervisor ended without a reason".to_owned()),
        )
    }
}
