//! The Supervisor: starts the tree, restarts what fails, gives up loudly.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use super::intensity::Intensity;
use super::progress::Progress;
use super::role::Role;
use crate::delivery::backoff::Backoff;
use crate::pipeline::Context;
use crate::telemetry::status::{ActorState, ActorStatus, Failure};
use crate::testing::fault::Point;

/// How often the supervisor looks for who is stuck, at least.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(1);
/// Deaths that accuse a batch of frames bring the search for the poison forward, so many more of
/// them are borne than of the others.
const POISON_ALLOWANCE: usize = 10;
/// The part of each restart delay that is left to chance.
const JITTER: f64 = 0.2;

/// See the module.
pub struct Supervisor;

#[derive(Debug)]
pub enum SupervisorMessage {
    /// The backoff of a child that failed is over.
    Respawn { role: Role, generation: u64 },
    /// Looks for children that are stuck.
    Inspect,
    /// Kills a child, as a fault would.
    Kill(Role),
}

pub struct SupervisorState {
    context: Arc<Context>,
    meltdown: Arc<OnceLock<String>>,
    children: BTreeMap<Role, Child>,
    failures: Intensity,
    accusations: Intensity,
    delivery_failures_seen: u64,
}

struct Child {
    cell: Option<ActorCell>,
    /// Counts the spawns, so that a respawn that was overtaken does nothing.
    generation: u64,
    started_at: Instant,
    backoff: Backoff,
    progress: Progress,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = (Arc<Context>, Arc<OnceLock<String>>);

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        (context, meltdown): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let config = &context.config;
        let limit = config.restart_limit as usize;
        Ok(SupervisorState {
            failures: Intensity::new(limit, config.restart_window),
            accusations: Intensity::new(limit * POISON_ALLOWANCE, config.restart_window),
            delivery_failures_seen: 0,
            children: BTreeMap::new(),
            meltdown,
            context,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        for role in Role::all(&state.context) {
            let child = Child {
                cell: None,
                generation: 0,
                started_at: Instant::now(),
                backoff: state.new_backoff()?,
                progress: Progress::new(),
            };
            state.children.insert(role, child);
            state.spawn(&myself, role).await;
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
        let faults = &state.context.faults;
        faults
            .pass(Point::SupervisorMessage, myself.get_cell())
            .await?;
        match message {
            SupervisorMessage::Respawn { role, generation } => {
                let is_due = state
                    .children
                    .get(&role)
                    .is_some_and(|child| child.cell.is_none() && child.generation == generation);
                if is_due {
                    state.spawn(&myself, role).await;
                }
            }
            SupervisorMessage::Inspect => state.inspect(),
            SupervisorMessage::Kill(role) => state.kill(role),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let faults = &state.context.faults;
        faults
            .pass(Point::SupervisorEvent, myself.get_cell())
            .await?;
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                state.note_end(&myself, cell.get_id(), error.to_string());
            }
            // No child ends by itself, so whatever the reason, one that did has failed.
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let reason = reason.unwrap_or_else(|| "ended without a reason".to_owned());
                state.note_end(&myself, cell.get_id(), reason);
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl SupervisorState {
    async fn spawn(&mut self, myself: &ActorRef<SupervisorMessage>, role: Role) {
        let Some(child) = self.children.get_mut(&role) else {
            return;
        };
        child.generation += 1;
        child.progress = Progress::new();
        child.started_at = Instant::now();
        let faults = &self.context.faults;
        if let Err(error) = faults.pass(Point::Spawn, myself.get_cell()).await {
            self.schedule_respawn(myself, role, error.to_string());
            return;
        }
        let spawned = role
            .spawn(&self.context, child.progress.clone(), myself.get_cell())
            .await;
        match spawned {
            Ok(cell) => {
                child.cell = Some(cell);
                if let Err(error) = faults.pass(Point::Spawned, myself.get_cell()).await {
                    tracing::warn!(actor = %role, %error, "the supervisor was disturbed");
                }
                self.show(role, ActorState::Running, None);
                if role.is_stage() {
                    self.context.ledger.begin_epoch();
                }
            }
            Err(error) => self.schedule_respawn(myself, role, error.to_string()),
        }
    }

    fn note_end(&mut self, myself: &ActorRef<SupervisorMessage>, id: ActorId, reason: String) {
        let fallen = self
            .children
            .iter_mut()
            .find(|(_, child)| child.cell.as_ref().is_some_and(|cell| cell.get_id() == id));
        let Some((&role, child)) = fallen else {
            return;
        };
        child.cell = None;
        role.clear_address(&self.context);
        if role.is_stage() {
            let ledger = &self.context.ledger;
            ledger.pause(ledger.epoch().epoch);
        }
        self.schedule_respawn(myself, role, reason);
    }

    fn schedule_respawn(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        role: Role,
        reason: String,
    ) {
        let window = self.context.config.restart_window;
        let Some(child) = self.children.get_mut(&role) else {
            return;
        };
        if child.started_at.elapsed() >= window {
            child.backoff.reset();
        }
        let delay = child.backoff.next_delay();
        let generation = child.generation;
        self.show(role, ActorState::BackingOff, Some(&reason));
        if self.is_one_too_many() {
            let last_word = format!(
                "giving up: {} failures within {} s, the last one of {role}: {reason}",
                self.context.config.restart_limit + 1,
                window.as_secs()
            );
            // Set once: the first reason is the one that ends the process.
            let _first = self.meltdown.set(last_word.clone());
            myself.stop(Some(last_word));
            return;
        }
        tracing::warn!(actor = %role, reason, delay_ms = delay.as_millis() as u64, "actor failed; restarting it");
        myself.send_after(delay, move || SupervisorMessage::Respawn {
            role,
            generation,
        });
    }

    fn is_one_too_many(&mut self) -> bool {
        let delivery_failures_total = self.context.ledger.delivery_failures_total();
        let accuses = delivery_failures_total > self.delivery_failures_seen;
        self.delivery_failures_seen = delivery_failures_total;
        if accuses {
            self.accusations.note(Instant::now())
        } else {
            self.failures.note(Instant::now())
        }
    }

    /// Stuck is a failure too.
    fn inspect(&mut self) {
        let limit = self.context.config.stuck_after;
        let busy: Vec<_> = self
            .children
            .iter()
            .filter_map(|(&role, child)| Some((role, child.progress.busy_for()?)))
            .filter(|(_, busy)| *busy > self.inspection_interval())
            .collect();
        let stuck = busy.iter().filter(|(_, busy)| *busy > limit);
        for (role, _) in stuck {
            tracing::error!(actor = %role, limit_s = limit.as_secs(), "actor is stuck; killing it");
            self.kill(*role);
        }
        let waits_too_long = self
            .context
            .ledger
            .waiting_since()
            .is_some_and(|since| since.elapsed() > limit);
        let is_blocked = self.context.status.snapshot().queue.blocked.is_some();
        if waits_too_long && busy.is_empty() && !is_blocked {
            tracing::error!("work has waited too long and nobody is at it; handing it out again");
            self.context.ledger.begin_epoch();
        }
    }

    fn inspection_interval(&self) -> Duration {
        INSPECTION_INTERVAL.min(self.context.config.stuck_after / 4)
    }

    fn kill(&self, role: Role) {
        if let Some(cell) = self
            .children
            .get(&role)
            .and_then(|child| child.cell.as_ref())
        {
            cell.kill();
        }
    }

    fn show(&self, role: Role, state: ActorState, failure: Option<&str>) {
        self.context.status.update(|status| {
            let actor = status
                .actors
                .entry(role.to_string())
                .or_insert(ActorStatus {
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

    fn new_backoff(&self) -> Result<Backoff, ActorProcessingErr> {
        let config = &self.context.config;
        Ok(Backoff::try_new(
            config.restart_min,
            config.restart_max,
            JITTER,
            fastrand::Rng::new(),
        )?)
    }
}
