//! The Supervisor: starts its children, restarts those that fail, and gives up with a reason after
//! too many failures.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use super::intensity::Intensity;
use super::{ChildSpec, Policy, Work};
use crate::actor::progress::Progress;
use crate::delivery::backoff::Backoff;
use crate::telemetry::status::{ActorState, ActorStatus, Failure, StatusBoard};
use crate::testing::fault::{Faults, Point};

/// The longest time between two searches for stuck children.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(1);
/// How many times more delivery failures are tolerated than other failures: each of them brings the
/// search for a faulty frame forward.
const DELIVERY_FAILURE_ALLOWANCE: usize = 10;
/// How much of each restart delay is random.
const JITTER: f64 = 0.2;

/// The supervisor of one tree.
pub(super) struct Supervisor;

#[derive(Debug)]
pub(super) enum SupervisorMessage {
    /// The backoff of a failed child is over. `index` is the child's index in the list.
    Respawn { index: usize, generation: u64 },
    /// Looks for stuck children.
    Inspect,
    /// Kills the child of this name, as a fault would.
    Kill(Arc<str>),
}

pub(super) struct Arguments {
    pub(super) children: Vec<ChildSpec>,
    pub(super) policy: Policy,
    pub(super) work: Arc<dyn Work>,
    pub(super) status: StatusBoard,
    pub(super) faults: Faults,
    /// Why the tree gave up. It is set once.
    pub(super) meltdown: Arc<OnceLock<String>>,
}

pub(super) struct SupervisorState {
    children: Vec<Child>,
    policy: Policy,
    work: Arc<dyn Work>,
    status: StatusBoard,
    faults: Faults,
    meltdown: Arc<OnceLock<String>>,
    failures: Intensity,
    delivery_failures: Intensity,
    delivery_failures_seen: u64,
}

struct Child {
    spec: ChildSpec,
    cell: Option<ActorCell>,
    /// Counts the spawns. A respawn of an older generation does nothing.
    generation: u64,
    started_at: Instant,
    backoff: Backoff,
    progress: Progress,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let Arguments {
            children,
            policy,
            work,
            status,
            faults,
            meltdown,
        } = arguments;
        let limit = policy.limit as usize;
        let children: Result<Vec<Child>, ActorProcessingErr> = children
            .into_iter()
            .map(|spec| Child::new(spec, &policy))
            .collect();
        Ok(SupervisorState {
            children: children?,
            failures: Intensity::new(limit, policy.window),
            delivery_failures: Intensity::new(limit * DELIVERY_FAILURE_ALLOWANCE, policy.window),
            delivery_failures_seen: 0,
            policy,
            work,
            status,
            faults,
            meltdown,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        for index in 0..state.children.len() {
            state.spawn(&myself, index).await;
        }
        myself.send_interval(state.inspection_interval(), || SupervisorMessage::Inspect);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let point = Point::SupervisorMessage;
        state.faults.pass(point, &myself.get_cell()).await?;
        match message {
            SupervisorMessage::Respawn { index, generation } => {
                let is_due = state
                    .children
                    .get(index)
                    .is_some_and(|child| child.cell.is_none() && child.generation == generation);
                if is_due {
                    state.spawn(&myself, index).await;
                }
            }
            SupervisorMessage::Inspect => state.inspect(),
            SupervisorMessage::Kill(name) => state.kill(&name),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let point = Point::SupervisorEvent;
        state.faults.pass(point, &myself.get_cell()).await?;
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                state.note_end(&myself, cell.get_id(), error.to_string());
            }
            // No child ends by itself, so every end is a failure.
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let reason = reason.unwrap_or_else(|| "ended without a reason".to_owned());
                state.note_end(&myself, cell.get_id(), reason);
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl Child {
    fn new(spec: ChildSpec, policy: &Policy) -> Result<Self, ActorProcessingErr> {
        let rng = fastrand::Rng::new();
        Ok(Self {
            spec,
            cell: None,
            generation: 0,
            started_at: Instant::now(),
            backoff: Backoff::try_new(policy.restart_min, policy.restart_max, JITTER, rng)?,
            progress: Progress::new(),
        })
    }
}

impl SupervisorState {
    async fn spawn(&mut self, myself: &ActorRef<SupervisorMessage>, index: usize) {
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        child.generation += 1;
        child.progress = Progress::new();
        child.started_at = Instant::now();
        let supervisor = myself.get_cell();
        if let Err(error) = self.faults.pass(Point::Spawn, &supervisor).await {
            self.schedule_respawn(myself, index, error.to_string());
            return;
        }
        let spawned = child
            .spec
            .spawn(child.progress.clone(), supervisor.clone())
            .await;
        match spawned {
            Ok(cell) => {
                child.cell = Some(cell);
                let spec = child.spec.clone();
                if let Err(error) = self.faults.pass(Point::Spawned, &supervisor).await {
                    tracing::warn!(actor = %spec.name(), %error, "fault injected into the supervisor");
                }
                self.show(spec.name(), ActorState::Running, None);
                spec.has_started();
            }
            Err(error) => self.schedule_respawn(myself, index, error.to_string()),
        }
    }

    fn note_end(&mut self, myself: &ActorRef<SupervisorMessage>, id: ActorId, reason: String) {
        let mut children = self.children.iter_mut().enumerate();
        let has_id = |child: &Child| child.cell.as_ref().is_some_and(|cell| cell.get_id() == id);
        let Some((index, child)) = children.find(|(_, child)| has_id(child)) else {
            return;
        };
        child.cell = None;
        child.spec.has_ended();
        self.schedule_respawn(myself, index, reason);
    }

    fn schedule_respawn(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        index: usize,
        reason: String,
    ) {
        let Policy { limit, window, .. } = self.policy;
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        if child.started_at.elapsed() >= window {
            child.backoff.reset();
        }
        let delay = child.backoff.next_delay();
        let generation = child.generation;
        let name = child.spec.name().clone();
        self.show(&name, ActorState::BackingOff, Some(&reason));
        if self.is_limit_exceeded() {
            let last_word = format!(
                "giving up: {} failures within {} s, the last one of {name}: {reason}",
                limit + 1,
                window.as_secs()
            );
            // Set once: the first reason is the one that ends the process.
            let _first = self.meltdown.set(last_word.clone());
            myself.stop(Some(last_word));
            return;
        }
        tracing::warn!(actor = %name, reason, delay_ms = delay.as_millis() as u64, "actor failed; restarting it");
        myself.send_after(delay, move || SupervisorMessage::Respawn {
            index,
            generation,
        });
    }

    /// Notes a failure. Returns whether there were too many within the window.
    fn is_limit_exceeded(&mut self) -> bool {
        let total = self.work.delivery_failures();
        let is_delivery_failure = total > self.delivery_failures_seen;
        self.delivery_failures_seen = total;
        if is_delivery_failure {
            self.delivery_failures.note(Instant::now())
        } else {
            self.failures.note(Instant::now())
        }
    }

    /// Kills children that are stuck. If no child is busy, work that has waited too long is handed
    /// out again.
    fn inspect(&mut self) {
        let limit = self.policy.stuck_after;
        let busy: Vec<_> = self
            .children
            .iter()
            .filter_map(|child| Some((child, child.progress.busy_for()?)))
            .filter(|(_, busy)| *busy > self.inspection_interval())
            .collect();
        let stuck = busy.iter().filter(|(_, busy)| *busy > limit);
        for (child, _) in stuck {
            tracing::error!(actor = %child.spec.name(), limit_s = limit.as_secs(), "actor is stuck; killing it");
            if let Some(cell) = &child.cell {
                cell.kill();
            }
        }
        if busy.is_empty() {
            self.work.redeliver_stalled(limit);
        }
    }

    fn inspection_interval(&self) -> Duration {
        INSPECTION_INTERVAL.min(self.policy.stuck_after / 4)
    }

    fn kill(&self, name: &str) {
        let named = self
            .children
            .iter()
            .filter(|child| **child.spec.name() == *name);
        for cell in named.filter_map(|child| child.cell.as_ref()) {
            cell.kill();
        }
    }

    fn show(&self, name: &str, state: ActorState, failure: Option<&str>) {
        self.status.update(|status| {
            let actor = status.actors.entry(name.to_owned()).or_insert(ActorStatus {
                state,
                restarts: 0,
                last_failure: None,
            });
            actor.state = state;
            if let Some(reason) = failure {
                actor.restarts += 1;
                actor.last_failure = Some(Failure {
                    at: Timestamp::now(),
                    reason: reason.to_owned(),
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct NoWork;

    impl Work for NoWork {
        fn delivery_failures(&self) -> u64 {
            0
        }

        fn redeliver_stalled(&self, _limit: Duration) {}
    }

    /// Fails at each start.
    struct Stillborn;

    impl Actor for Stillborn {
        type Msg = ();
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _myself: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Err("it does not start".into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_respawn_that_was_overtaken_does_not_cut_the_backoff_short() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = starts.clone();
        let child = ChildSpec::new(
            "stillborn",
            || Stillborn,
            move |_| _ = counted.fetch_add(1, Ordering::Relaxed),
            |_| {},
        );
        let minute = Duration::from_mins(1);
        let arguments = Arguments {
            children: vec![child],
            policy: Policy {
                restart_min: minute,
                restart_max: minute,
                limit: 10,
                window: minute,
                stuck_after: minute,
            },
            work: Arc::new(NoWork),
            status: StatusBoard::default(),
            faults: Faults::default(),
            meltdown: Arc::default(),
        };
        let (supervisor, _) = Actor::spawn(None, Supervisor, arguments).await.unwrap();
        let started_within = async |time: Duration| {
            tokio::time::sleep(time).await;
            starts.load(Ordering::Relaxed)
        };
        assert_eq!(started_within(minute / 4).await, 1);
        let overtaken = SupervisorMessage::Respawn {
            index: 0,
            generation: 0,
        };
        supervisor.cast(overtaken).unwrap();
        assert_eq!(started_within(minute / 4).await, 1);
        assert_eq!(started_within(minute).await, 2);
    }
}
