//! The tree from outside: start it, wait for it, drain it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorRef, SpawnErr};
use tokio::task::JoinHandle;

use super::actor::{Supervisor, SupervisorMessage};
use super::role::Role;
use crate::pipeline::Context;
use crate::pipeline::cursor::CursorMessage;
use crate::testing::fault::Point;

/// How often an end that comes by itself is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// A running tree. Dropping it leaves the actors running; [`Tree::drain`] ends them.
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
        let wakeups = context.decoders.clone();
        context.ledger.on_unacked(move || {
            for wakeup in wakeups.iter() {
                wakeup.wake();
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
        meltdown_error(&self.meltdown)
    }

    /// Ends once the source was reached and then brought nothing for `idle`, and all that it had
    /// brought is settled.
    pub fn silence(&self, idle: Duration) -> impl Future<Output = ()> + use<> {
        let context = self.context.clone();
        async move {
            loop {
                let quiet_since = context
                    .ledger
                    .last_entered_at()
                    .max(context.first_connected_at());
                if quiet_since.is_some_and(|since| since.elapsed() >= idle)
                    && context.ledger.is_idle()
                    && is_settled(&context)
                {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    /// Reads no more, applies what was read, writes the cursor, and stops.
    ///
    /// # Errors
    /// Where the tree gave up or the deadline passed before all was applied. Nothing is lost by
    /// either: the cursor stands before what was not applied.
    pub async fn drain(self) -> Result<(), TreeError> {
        let Self {
            context,
            supervisor,
            mut handle,
            meltdown,
        } = self;
        let limit = context.config.drain_timeout;
        context.status.update(|status| status.draining = true);
        context.stop_reading.cancel();
        // A batch may be on its way from the socket all the same; the next start reads it again.
        context.ledger.close();
        let settled = tokio::select! {
            settled = tokio::time::timeout(limit, settle(&context)) => settled,
            _ended = &mut handle => return Err(meltdown_error(&meltdown)),
        };
        supervisor.stop(Some("drained".to_owned()));
        let _ended = handle.await;
        settled.map_err(|_elapsed| TreeError::DrainDeadline(limit))
    }
}

/// Whether no repository waits for anybody to see to it now.
fn is_settled(context: &Context) -> bool {
    let repositories = context.repositories.as_ref();
    repositories.is_none_or(|repositories| repositories.idleness.is_idle())
}

/// Returns once all that was read is durable, and the database says so.
async fn settle(context: &Context) {
    context.ledger.idle().await;
    while !finish(context).await {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn finish(context: &Context) -> bool {
    let Some(cursor) = context.cursor.current() else {
        return false;
    };
    let faults = &context.faults;
    let undisturbed = faults.pass_without_actor(Point::DrainSettled).await;
    if undisturbed.is_err() {
        return false;
    }
    let asked = cursor.call(CursorMessage::Finish, Some(FINISH_DEADLINE));
    let is_written = matches!(asked.await, Ok(CallResult::Success(true)));
    let undisturbed = faults.pass_without_actor(Point::DrainCheckpointed).await;
    is_written && undisturbed.is_ok()
}

fn meltdown_error(meltdown: &OnceLock<String>) -> TreeError {
    TreeError::Meltdown(
        meltdown
            .get()
            .cloned()
            .unwrap_or_else(|| "the supervisor ended without a reason".to_owned()),
    )
}
