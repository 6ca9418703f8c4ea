//! The ConsumerActor: applies the tasks of one partition while this process has it, and otherwise waits
//! for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::Instant;

use super::consumer::{Consumer, Pace, Parts, SharedTarget};
use super::lasting_failure::WARN_INTERVAL;
use crate::actor::address::Address;
use crate::actor::{ActorContext, Arguments};
use crate::delivery::backoff::Backoff;
use crate::sink::SinkError;
use crate::sink::queue::Queue;
use crate::telemetry::status::{Consumption, Failure, StatusBoard};
use crate::testing::fault::Point;

/// The delays after a failure of the queue or of the target.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_JITTER: f64 = 0.2;
/// The longest delay before a refused task is tried again.
const REFUSED_MAX: Duration = Duration::from_secs(1);

/// Applies the tasks of one partition; see the module.
pub(super) struct ConsumerActor;

/// What a ConsumerActor needs. It outlives the actor.
pub(super) struct ConsumerContext {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) part: u32,
    pub(super) target: SharedTarget,
    /// Retries of a task that the target refuses, before it is a dead letter.
    pub(super) retries: u32,
    pub(super) status: StatusBoard,
    /// When the log told last of a partition that fails; `None` since all are read again. What fails as a
    /// rule fails for all, and is told once.
    pub(super) told_at: Arc<Mutex<Option<Instant>>>,
    pub(super) address: Address<ConsumerMessage>,
}

#[derive(Debug)]
pub(super) enum ConsumerMessage {
    /// Do the next step.
    Step,
    /// Answer when the step that is in progress has ended and the partition is given back.
    Finish(RpcReplyPort<()>),
}

pub(super) struct ConsumerState {
    context: ActorContext<ConsumerContext>,
    consumer: Consumer,
    backoff: Backoff,
    is_finished: bool,
}

impl ConsumerContext {
    fn told_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.told_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Consumption)) {
        self.status.update(|status| {
            if let Some(consumption) = &mut status.consumption {
                change(consumption);
            }
        });
    }
}

impl Actor for ConsumerActor {
    type Msg = ConsumerMessage;
    type State = ConsumerState;
    type Arguments = Arguments<ConsumerContext>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let cell = myself.get_cell();
        let context = ActorContext::start(arguments, cell, Point::ConsumerStart).await?;
        let backoff = Backoff::try_new(RETRY_MIN, RETRY_MAX, RETRY_JITTER, fastrand::Rng::new())?;
        let consumer = Consumer::new(Parts {
            source: context.queue.part(context.part),
            target: context.target.clone(),
            retries: context.retries,
            faults: context.faults().clone(),
        });
        context.update(|consumption| {
            consumption.held.remove(&context.part);
        });
        myself.cast(ConsumerMessage::Step)?;
        Ok(ConsumerState {
            context,
            consumer,
            backoff,
            is_finished: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConsumerMessage::Step if state.is_finished => {}
            ConsumerMessage::Step => {
                let _busy = state.context.begin(Point::ConsumerStep).await?;
                match state.step().await {
                    None => myself.cast(ConsumerMessage::Step)?,
                    Some(delay) => drop(myself.send_after(delay, || ConsumerMessage::Step)),
                }
            }
            ConsumerMessage::Finish(reply) => {
                state.is_finished = true;
                state.consumer.release().await;
                state.show_part();
                let _asked_no_more = reply.send(());
            }
        }
        Ok(())
    }
}

impl ConsumerState {
    /// Does a step. Returns how long the next one waits.
    async fn step(&mut self) -> Option<Duration> {
        let delay = match self.consumer.step().await {
            Ok(pace) => self.went_on(pace),
            Err(error) => Some(self.failed(&error)),
        };
        self.show_part();
        delay
    }

    fn went_on(&mut self, pace: Pace) -> Option<Duration> {
        let now = Timestamp::now();
        let part = self.context.part;
        let mut recovered = None;
        self.context.update(|consumption| {
            let failed = consumption.failing.remove(&part);
            recovered = failed.filter(|_| consumption.failing.is_empty());
            consumption.last_success_at = Some(now);
        });
        if let Some(last) = recovered
            && self.context.told_at().take().is_some()
        {
            let seconds = now.duration_since(last.at).as_secs();
            tracing::info!(failed_s = seconds, "all partitions are read again");
        }
        match pace {
            Pace::Applied(count) => {
                self.backoff.reset();
                self.context
                    .update(|consumption| consumption.applied += count);
                None
            }
            Pace::Idle => {
                self.backoff.reset();
                None
            }
            Pace::Refused(reason) => {
                self.context.update(|consumption| {
                    consumption.errors += 1;
                    consumption.last_error = Some(reason);
                });
                Some(self.backoff.next_delay().min(REFUSED_MAX))
            }
            Pace::SetAside { reason, attempts } => {
                tracing::warn!(
                    partition = part,
                    attempts,
                    error = reason,
                    "a task cannot be applied; it is a dead letter, and the others go on"
                );
                self.context.update(|consumption| {
                    consumption.dead_letters += 1;
                    consumption.last_error = Some(reason);
                });
                None
            }
        }
    }

    fn failed(&mut self, error: &SinkError) -> Duration {
        let delay = error.delay(self.backoff.next_delay());
        let (part, now) = (self.context.part, Timestamp::now());
        let reason = error.to_string();
        let mut failing = 0;
        self.context.update(|consumption| {
            consumption.errors += 1;
            consumption.last_error = Some(reason.clone());
            let failure = consumption.failing.entry(part).or_insert_with(|| Failure {
                at: now,
                reason: String::new(),
            });
            failure.reason.clone_from(&reason);
            failing = consumption.failing.len();
        });
        let mut told_at = self.context.told_at();
        if told_at.is_none_or(|told| told.elapsed() >= WARN_INTERVAL) {
            *told_at = Some(Instant::now());
            tracing::warn!(
                partition = part,
                failing,
                error = reason,
                retry_in_ms = delay.as_millis() as u64,
                "a partition cannot be read or applied; its tasks wait in the queue"
            );
        }
        delay
    }

    fn show_part(&self) {
        let (part, has_part) = (self.context.part, self.consumer.has_part());
        self.context.update(|consumption| match has_part {
            true => _ = consumption.held.insert(part),
            false => _ = consumption.held.remove(&part),
        });
    }
}
