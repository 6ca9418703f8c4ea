//! The handle of a running worker: wait for its end, kill an actor, drain it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use ractor::rpc::CallResult;
use tokio::time::Instant;

use super::assembly::Assembly;
use super::children::{Role, children};
use crate::command::{Asked, Commands};
use crate::pipeline::Context;
use crate::pipeline::cursor::CursorMessage;
use crate::sink::actor::{SinkContext, SinkMessage};
use crate::supervisor::{Tree, TreeError, Work};
use crate::testing::fault::Point;

/// How often the worker checks whether its work has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// A running worker. Dropping it leaves the actors running; [`RunningWorker::drain`] ends them.
pub struct RunningWorker {
    prometheus: PrometheusHandle,
    context: Arc<Context>,
    /// `None` if no commands are taken.
    commands: Option<Arc<Commands>>,
    tree: Tree,
    sinks: Vec<Arc<SinkContext>>,
    drain_timeout: Duration,
}

/// Why a worker ended before everything that it had read was applied.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(
        "drain met its deadline of {} s; the next start reads again what was not applied",
        .0.as_secs()
    )]
    DrainDeadline(Duration),

    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl RunningWorker {
    /// Starts the actors. The connection to the source starts after the actors that handle its
    /// events.
    ///
    /// # Errors
    /// If the supervisor itself does not start.
    pub async fn start(assembly: Assembly) -> Result<Self, WorkerError> {
        let children = children(&assembly);
        let Assembly {
            context,
            household,
            commands,
            sinks,
            policy,
            drain_timeout,
            ..
        } = assembly;
        if let Some(repositories) = &context.repositories {
            repositories.restore_identities().await;
        }
        if let Some(commands) = &commands {
            // If the database fails, the CommandActor brings the pauses into force.
            let _shown = commands.scope.show_pauses().await;
        }
        let (work, status) = (
            Arc::new(PipelineWork(context.clone())),
            context.status.clone(),
        );
        let tree = Tree::start(children, policy, work, status, context.faults.clone()).await?;
        Ok(Self {
            prometheus: household.prometheus.clone(),
            context,
            commands,
            tree,
            sinks,
            drain_timeout,
        })
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Renders the metrics as Prometheus text.
    pub fn prometheus(&self) -> &PrometheusHandle {
        &self.prometheus
    }

    /// Kills an actor, as a fault would.
    pub fn kill(&self, role: Role) {
        self.tree.kill(&role.to_string());
    }

    pub fn commands(&self) -> Option<&Arc<Commands>> {
        self.commands.as_ref()
    }

    /// Waits until a command asks something of the process.
    pub fn asked(&self) -> impl Future<Output = Asked> + use<> {
        let live = self.commands.as_ref();
        let live = live.and_then(|commands| commands.scope.live.as_ref());
        let asked = live.map(|live| live.asked.subscribe());
        async move {
            let Some(mut asked) = asked else {
                return pending().await;
            };
            // The sender lives as long as the actors.
            match asked.wait_for(Option::is_some).await.map(|asked| *asked) {
                Ok(Some(asked)) => asked,
                Ok(None) | Err(_) => pending().await,
            }
        }
    }

    /// Waits until the supervisor gives up. Returns the reason.
    pub async fn failed(&mut self) -> WorkerError {
        self.tree.failed().await.into()
    }

    /// Waits until the source was reached and has been silent for `idle`, everything that it sent
    /// is applied, no repository has a job due, and each sink has everything.
    pub fn silence(&self, idle: Duration) -> impl Future<Output = ()> + use<> {
        let context = self.context.clone();
        let sinks = self.sinks.clone();
        async move {
            loop {
                let quiet_since = context
                    .ledger
                    .last_entered_at()
                    .max(context.first_connected_at());
                if quiet_since.is_some_and(|since| since.elapsed() >= idle)
                    && context.ledger.is_idle()
                    && has_no_jobs(&context)
                    && have_everything(&sinks).await
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
    /// If the supervisor gives up, or the deadline passes before everything is applied. Nothing is
    /// lost: the cursor stands before what was not applied.
    pub async fn drain(self) -> Result<(), WorkerError> {
        let Self {
            context,
            mut tree,
            sinks,
            drain_timeout,
            ..
        } = self;
        let began = Instant::now();
        context.status.update(|status| status.draining = true);
        context.stop_reading.cancel();
        // The ConnectionActor may still hold a batch. The next start reads it again.
        context.ledger.close();
        let finished = tokio::select! {
            finished = tokio::time::timeout(drain_timeout, finish(&context)) => finished,
            error = tree.failed() => return Err(error.into()),
        };
        let left = drain_timeout.saturating_sub(began.elapsed());
        // What a sink does not take in time is delivered by the next start.
        let _late = tokio::time::timeout(left, finish_sinks(&sinks)).await;
        tree.stop("drained").await;
        end(&context).await;
        finished.map_err(|_elapsed| WorkerError::DrainDeadline(drain_timeout))
    }
}

/// Whether each sink has everything that was written. Rows of an earlier version are not in the feed
/// before they have numbers.
async fn have_everything(sinks: &[Arc<SinkContext>]) -> bool {
    let Some(first) = sinks.first() else {
        return true;
    };
    sinks.iter().all(|sink| sink.is_caught_up())
        && matches!(first.feed.is_numbered().await, Ok(true))
}

/// Waits until no sink has a delivery on its way.
async fn finish_sinks(sinks: &[Arc<SinkContext>]) {
    let actors = sinks.iter().filter_map(|sink| sink.address.current());
    // All at once: one that hangs leaves the others their time.
    join_all(actors.map(async |actor| {
        let _ended = actor.call(SinkMessage::Finish, None).await;
    }))
    .await;
}

/// Whether no repository has a job due.
fn has_no_jobs(context: &Context) -> bool {
    let repositories = context.repositories.as_ref();
    repositories.is_none_or(|repositories| repositories.idleness.is_idle())
}

/// Waits until everything that was read is durable, and the cursor too.
async fn finish(context: &Context) {
    context.ledger.idle().await;
    while !write_cursor(context).await {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Notes that the jobs that were in progress did not end the run, saves the last identities, and closes
/// the database. If that fails, the next run does its jobs one at a time, looks some accounts up again,
/// or has a longer log to read.
async fn end(context: &Context) {
    if let Some(repositories) = &context.repositories {
        let _noted = tokio::time::timeout(FINISH_DEADLINE, repositories.store.end_jobs()).await;
        // What is not saved is looked up again.
        let _saved = tokio::time::timeout(FINISH_DEADLINE, repositories.save_identities()).await;
    }
    match tokio::time::timeout(FINISH_DEADLINE, context.store.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            %error,
            "the database was not closed cleanly; nothing is lost, the next start reads its log"
        ),
        Err(_elapsed) => tracing::warn!(
            deadline_s = FINISH_DEADLINE.as_secs(),
            "the database was not closed in time; nothing is lost, the next start reads its log"
        ),
    }
}

async fn write_cursor(context: &Context) -> bool {
    let Some(cursor) = context.cursor.current() else {
        return false;
    };
    let faults = &context.faults;
    if faults
        .pass_without_actor(Point::DrainSettled)
        .await
        .is_err()
    {
        return false;
    }
    let answer = cursor.call(CursorMessage::Finish, Some(FINISH_DEADLINE));
    let is_written = matches!(answer.await, Ok(CallResult::Success(true)));
    let passed = faults.pass_without_actor(Point::DrainCheckpointed).await;
    is_written && passed.is_ok()
}

/// The work of a pipeline, for the supervisor.
struct PipelineWork(Arc<Context>);

impl Work for PipelineWork {
    fn delivery_failures(&self) -> u64 {
        self.0.ledger.delivery_failures_total()
    }

    fn redeliver_stalled(&self, limit: Duration) {
        let waiting_since = self.0.ledger.waiting_since();
        let is_stalled = waiting_since.is_some_and(|since| since.elapsed() > limit);
        let is_blocked = self.0.status.snapshot().queue.blocked.is_some();
        if is_stalled && !is_blocked {
            tracing::error!(
                limit_s = limit.as_secs(),
                "batches waited longer than the limit and no actor is busy; handing them out again"
            );
            self.0.ledger.begin_epoch();
        }
    }
}
