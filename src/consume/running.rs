//! A consumer that runs: its tree, and its end.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use ractor::{Message, RpcReplyPort};
use tokio::sync::Mutex;

use super::actor::{ConsumerActor, ConsumerContext, ConsumerMessage};
use super::consumer::SharedTarget;
use super::options::ConsumeOptions;
use super::presence::{PresenceActor, PresenceContext, PresenceMessage};
use super::upkeep::{UpkeepActor, UpkeepContext};
use crate::actor::Arguments;
use crate::actor::address::Address;
use crate::actor::progress::Progress;
use crate::admin::http::HttpState;
use crate::admin::http_actor::{Endpoints, HttpActor};
use crate::supervisor::{ChildSpec, Tree, TreeError, Work};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::{Consumption, StatusBoard};
use crate::testing::fault::Faults;

/// How long the end of this process may take to be told to the others.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// A consumer that runs. Dropping it leaves the actors running; [`RunningConsumer::drain`] ends them.
pub struct RunningConsumer {
    tree: Tree,
    consumers: Vec<Address<ConsumerMessage>>,
    presence: Address<PresenceMessage>,
    status: StatusBoard,
    drain_timeout: Duration,
}

/// Starts the actors. A queue or a target that cannot be reached is not an error: the actors try again
/// until it answers.
///
/// # Errors
/// If the supervisor does not start.
pub async fn start(
    options: ConsumeOptions,
    listener: Option<TcpListener>,
    faults: Faults,
) -> Result<RunningConsumer, TreeError> {
    let (metrics, prometheus) = Metrics::new();
    let status = StatusBoard::default();
    let queue = options.from.build(&options.outside, options.retries);
    let target: SharedTarget = Arc::new(Mutex::new(options.into.build(options.tables.clone())));
    status.update(|status| {
        status.started_at = Some(Timestamp::now());
        status.consumption = Some(Consumption {
            from: options.from.to_string(),
            into: options.into.to_string(),
            partitions: queue.parts(),
            ..Consumption::default()
        });
    });
    let told_at = Arc::default();
    let contexts = (0..queue.parts()).map(|part| {
        Arc::new(ConsumerContext {
            queue: queue.clone(),
            part,
            target: target.clone(),
            retries: options.retries,
            status: status.clone(),
            told_at: Arc::clone(&told_at),
            address: Address::default(),
        })
    });
    let contexts: Vec<Arc<ConsumerContext>> = contexts.collect();
    let presence = Arc::new(PresenceContext {
        queue,
        status: status.clone(),
        address: Address::default(),
    });
    let mut children = vec![upkeep(target, &status, &prometheus, &faults)];
    children.extend(contexts.iter().map(|context| consumer(context, &faults)));
    children.push(of_presence(&presence, &faults));
    if let Some(listener) = listener {
        let state = HttpState {
            metrics,
            prometheus,
            status: status.clone(),
            thresholds: options.thresholds,
            allowed_hosts: options.allowed_hosts.into(),
            changes: None,
        };
        let endpoints = Arc::new(Endpoints { listener, state });
        let http = ChildSpec::new("http", || HttpActor, move |_| endpoints.clone(), |_| {});
        children.push(http);
    }
    let tree = Tree::start(
        children,
        options.policy,
        Arc::new(NoDeliveries),
        status.clone(),
        faults,
    );
    Ok(RunningConsumer {
        tree: tree.await?,
        consumers: contexts
            .iter()
            .map(|context| context.address.clone())
            .collect(),
        presence: presence.address.clone(),
        status,
        drain_timeout: options.drain_timeout,
    })
}

impl RunningConsumer {
    /// What it does.
    pub fn status(&self) -> &StatusBoard {
        &self.status
    }

    /// Waits until the supervisor gives up. Returns the reason.
    pub async fn failed(&mut self) -> TreeError {
        self.tree.failed().await
    }

    /// Applies what is in hand, gives the partitions back, and stops. What is left waits in the queue.
    pub async fn drain(self) {
        let Self {
            tree,
            consumers,
            presence,
            status,
            drain_timeout,
        } = self;
        status.update(|status| status.draining = true);
        // The others take over what is given back: this process is not counted any more.
        let left = ask(&presence, PresenceMessage::Leave);
        let _late = tokio::time::timeout(LEAVE_DEADLINE, left).await;
        let finished = consumers
            .iter()
            .map(|consumer| ask(consumer, ConsumerMessage::Finish));
        // A lease that is not given back ends by itself.
        let _late = tokio::time::timeout(drain_timeout, join_all(finished)).await;
        tree.stop("drained").await;
    }
}

async fn ask<M: Message>(address: &Address<M>, message: impl FnOnce(RpcReplyPort<()>) -> M) {
    if let Some(actor) = address.current() {
        let _ended = actor.call(message, None).await;
    }
}

fn consumer(context: &Arc<ConsumerContext>, faults: &Faults) -> ChildSpec {
    let name = format!("consumer-{}", context.part);
    let address = context.address.clone();
    let child = ChildSpec::new(
        name,
        || ConsumerActor,
        arguments_with(context.clone(), faults.clone()),
        move |actor| address.set(actor),
    );
    let address = context.address.clone();
    child.on_ended(move || address.clear())
}

fn of_presence(context: &Arc<PresenceContext>, faults: &Faults) -> ChildSpec {
    let address = context.address.clone();
    let child = ChildSpec::new(
        "presence",
        || PresenceActor,
        arguments_with(context.clone(), faults.clone()),
        move |actor| address.set(actor),
    );
    let address = context.address.clone();
    child.on_ended(move || address.clear())
}

fn upkeep(
    target: SharedTarget,
    status: &StatusBoard,
    prometheus: &PrometheusHandle,
    faults: &Faults,
) -> ChildSpec {
    let context = Arc::new(UpkeepContext {
        target,
        status: status.clone(),
        prometheus: prometheus.clone(),
    });
    ChildSpec::new(
        "upkeep",
        || UpkeepActor,
        arguments_with(context, faults.clone()),
        |_| {},
    )
}

fn arguments_with<C: Send + Sync + 'static>(
    shared: Arc<C>,
    faults: Faults,
) -> impl Fn(Progress) -> Arguments<C> + Send + Sync + 'static {
    move |progress| Arguments {
        shared: shared.clone(),
        progress,
        faults: faults.clone(),
    }
}

/// What a consumer has in hand, the queue hands out again by itself.
struct NoDeliveries;

impl Work for NoDeliveries {
    fn delivery_failures(&self) -> u64 {
        0
    }

    fn redeliver_stalled(&self, _limit: Duration) {}
}
