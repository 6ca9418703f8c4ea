//! The SinkActor: follows the change feed for one sink, at the sink's pace.
//!
//! A sink that fails is no failure of the actor: it is asked again, ever less often. So a sink that is
//! down for a week costs nothing but its lag.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::control::{SinkControl, Wanted};
use super::follower::{Follower, Pace, Parts, Rewound};
use super::{SinkError, SinkOptions, TableOptions};
use crate::actor::address::Address;
use crate::actor::{ActorContext, Arguments};
use crate::delivery::backoff::Backoff;
use crate::delivery::budget::{Budget, SinkShare};
use crate::store::change_feed::ChangeFeed;
use crate::telemetry::status::{SinkState, SinkStatus, StatusBoard};
use crate::testing::fault::Point;

/// The delays after a failure of the sink.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
const RETRY_JITTER: f64 = 0.2;
/// How long changes wait for others to come, so that they are one delivery.
const GATHER: Duration = Duration::from_millis(20);
/// The least time from the end of one delivery to the next, for a sink that has everything. Each delivery has a
/// cost of its own, whatever it brings: more of them would take the processor from the firehose.
const REST: Duration = Duration::from_millis(500);
/// How often the feed is looked at if nothing was written: another process may have.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the sink is asked for its upkeep.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How often the rows are counted that the sink does not have, and up to how many.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
const MOST_COUNTED: u64 = 1_000_000;
/// How often the log tells of a sink that fails.
const ERROR_INTERVAL: Duration = Duration::from_secs(60);

/// Follows the feed for one sink; see the module.
pub struct SinkActor;

/// What a SinkActor needs. It outlives the actor.
pub struct SinkContext {
    pub options: SinkOptions,
    pub tables: TableOptions,
    pub feed: Arc<dyn ChangeFeed>,
    pub status: StatusBoard,
    pub share: SinkShare,
    /// Retries of a change that the sink refuses, before it becomes a dead letter.
    pub retries: u32,
    pub address: Address<SinkMessage>,
    pub control: SinkControl,
    progress: Mutex<Idleness>,
}

/// Whether the sink had everything, and of which commit.
#[derive(Clone, Copy, Debug, Default)]
struct Idleness {
    caught_up_at: Option<u64>,
}

#[derive(Debug)]
pub enum SinkMessage {
    /// Do the next step.
    Step,
    /// Answer when the step that is in progress has ended.
    Finish(RpcReplyPort<()>),
    /// Move the position back, so that what comes behind it is delivered again.
    Rewind {
        to: u64,
        reply: RpcReplyPort<Result<Rewound, SinkError>>,
    },
}

pub struct SinkActorState {
    context: ActorContext<SinkContext>,
    follower: Follower,
    backoff: Backoff,
    commits: watch::Receiver<u64>,
    wanted: watch::Receiver<Wanted>,
    upkeep_at: Instant,
    counted_at: Option<Instant>,
    told_at: Option<Instant>,
    is_finished: bool,
}

impl SinkContext {
    /// The contexts of all sinks. Each has a part of the budget of its own.
    pub fn all(
        sinks: &[SinkOptions],
        tables: &TableOptions,
        retries: u32,
        feed: &Arc<dyn ChangeFeed>,
        budget: &Arc<Budget>,
        status: &StatusBoard,
    ) -> Vec<Arc<Self>> {
        let context = |options: &SinkOptions| {
            status.update(|status| {
                status.sinks.insert(
                    options.name.to_string(),
                    SinkStatus::of(options.to_string()),
                );
            });
            Arc::new(Self {
                options: options.clone(),
                tables: tables.clone(),
                feed: feed.clone(),
                status: status.clone(),
                share: budget.sink_share(),
                retries,
                address: Address::default(),
                control: SinkControl::default(),
                progress: Mutex::default(),
            })
        };
        sinks.iter().map(context).collect()
    }

    /// Whether the sink has everything that this process has written, or is not wanted to have it.
    pub fn is_caught_up(&self) -> bool {
        !self.control.current().is_followed() || self.has_everything()
    }

    fn has_everything(&self) -> bool {
        let commits = *self.feed.commits().borrow();
        let idleness = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        idleness.caught_up_at == Some(commits)
    }

    fn set_caught_up(&self, caught_up_at: Option<u64>) {
        let mut idleness = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        idleness.caught_up_at = caught_up_at;
    }

    fn update(&self, change: impl FnOnce(&mut SinkStatus)) {
        self.status.update(|status| {
            if let Some(sink) = status.sinks.get_mut(&*self.options.name) {
                change(sink);
            }
        });
    }
}

impl Actor for SinkActor {
    type Msg = SinkMessage;
    type State = SinkActorState;
    type Arguments = Arguments<SinkContext>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let cell = myself.get_cell();
        let context = ActorContext::start(arguments, cell, Point::SinkStart).await?;
        context.set_caught_up(None);
        let backoff = Backoff::try_new(RETRY_MIN, RETRY_MAX, RETRY_JITTER, fastrand::Rng::new())?;
        let follower = Follower::new(Parts {
            name: context.options.name.clone(),
            feed: context.feed.clone(),
            sink: context.options.build(&context.tables, &context.feed),
            share: context.share.clone(),
            retries: context.retries,
        });
        myself.cast(SinkMessage::Step)?;
        Ok(SinkActorState {
            commits: context.feed.commits(),
            wanted: context.control.subscribe(),
            follower,
            backoff,
            context,
            upkeep_at: Instant::now() + UPKEEP_INTERVAL,
            counted_at: None,
            told_at: None,
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
            SinkMessage::Step if state.is_finished => {}
            SinkMessage::Step => {
                let _busy = state.context.begin(Point::SinkStep).await?;
                let next = state.step().await;
                next.schedule(myself, state);
            }
            // The command was cancelled, or asks again.
            SinkMessage::Rewind { reply, .. } if reply.is_closed() => {}
            SinkMessage::Rewind { to, reply } => {
                let _busy = state.context.begin(Point::SinkStep).await?;
                let rewound = state.rewind(to).await;
                // The command that asked may have ended by its deadline. It asks again.
                let _asked_no_more = reply.send(rewound);
            }
            SinkMessage::Finish(reply) => {
                // The deliveries that are left are those of the next start.
                state.is_finished = true;
                state.show_behind().await;
                let _asked_no_more = reply.send(());
            }
        }
        Ok(())
    }
}

/// When the next step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Now,
    After(Duration),
    /// With the next transaction, or after a while.
    Written,
    /// When an operator wants something else.
    Wanted,
}

impl Next {
    fn schedule(self, actor: ActorRef<SinkMessage>, state: &SinkActorState) {
        let (mut commits, mut wanted) = (state.commits.clone(), state.wanted.clone());
        match self {
            // The actor has ended otherwise.
            Self::Now => drop(actor.cast(SinkMessage::Step)),
            Self::After(delay) => drop(actor.send_after(delay, || SinkMessage::Step)),
            Self::Written => {
                let rested = Instant::now() + REST;
                tokio::spawn(async move {
                    tokio::select! {
                        _ = commits.changed() => {
                            sleep_until(rested.max(Instant::now() + GATHER)).await;
                        }
                        () = sleep(LOOK_INTERVAL) => {}
                    }
                    drop(actor.cast(SinkMessage::Step));
                });
            }
            Self::Wanted => {
                tokio::spawn(async move {
                    // The context, which has the sender, outlives the actor.
                    let _changed = wanted.changed().await;
                    drop(actor.cast(SinkMessage::Step));
                });
            }
        }
    }
}

impl SinkActorState {
    async fn step(&mut self) -> Next {
        let wanted = self.wanted.borrow_and_update().clone();
        if !wanted.is_followed() {
            self.stand(&wanted).await;
            return Next::Wanted;
        }
        if Instant::now() >= self.upkeep_at {
            self.upkeep_at = Instant::now() + UPKEEP_INTERVAL;
            self.follower.ask_for_upkeep();
        }
        // Seen before the feed is read, so that what is written meanwhile is not missed.
        let commits = *self.commits.borrow_and_update();
        let next = match self.follower.step().await {
            Ok(pace) => self.went_on(pace, commits),
            Err(error) => self.failed(error),
        };
        self.show_position().await;
        next
    }

    /// Delivers nothing until that is wanted again.
    async fn stand(&mut self, wanted: &Wanted) {
        let state = match wanted.removal {
            Some(_) => SinkState::Removed,
            None => SinkState::Paused,
        };
        let mut stood_before = false;
        self.context.update(|sink| {
            stood_before = sink.state == state;
            sink.state = state;
            sink.pause = wanted.pause.clone();
            sink.failing_since = None;
            sink.refusing_since = None;
        });
        if !stood_before {
            tracing::info!(
                sink = %self.context.options.name,
                state = state.as_str(),
                "the sink is not wanted to follow; its changes wait in the database"
            );
        }
        self.told_at = None;
        self.backoff.reset();
        self.show_behind().await;
    }

    async fn rewind(&mut self, to: u64) -> Result<Rewound, SinkError> {
        let rewound = self.follower.rewind(to).await;
        if rewound != Ok(Rewound::From(to)) {
            self.context.set_caught_up(None);
        }
        // Told here: the command may be cancelled before it has the answer.
        if let Ok(Rewound::From(from)) = rewound {
            tracing::info!(
                sink = %self.context.options.name,
                from,
                to,
                "the sink was moved back; what was written behind that is delivered again"
            );
        }
        self.show_position().await;
        rewound
    }

    fn went_on(&mut self, pace: Pace, commits: u64) -> Next {
        let now = Timestamp::now();
        match pace {
            Pace::Next(delivered) => {
                if delivered > 0 {
                    self.succeeded(delivered, now);
                    self.context.update(|sink| sink.refusing_since = None);
                }
                self.context.set_caught_up(None);
                Next::Now
            }
            Pace::CaughtUp => {
                self.succeeded(0, now);
                self.context.set_caught_up(Some(commits));
                Next::Written
            }
            Pace::Refused(reason) => {
                self.context.update(|sink| {
                    sink.errors += 1;
                    sink.refusing_since.get_or_insert(now);
                    sink.last_error = Some(reason);
                });
                Next::After(self.backoff.next_delay().min(Duration::from_secs(1)))
            }
        }
    }

    fn succeeded(&mut self, delivered: u64, now: Timestamp) {
        self.backoff.reset();
        let mut failed_since = None;
        self.context.update(|sink| {
            sink.delivered += delivered;
            sink.last_success_at = Some(now);
            failed_since = sink.failing_since.take();
            sink.state = SinkState::Following;
            sink.pause = None;
        });
        if let Some(since) = failed_since {
            let seconds = now.duration_since(since).as_secs();
            tracing::info!(sink = %self.context.options.name, failed_s = seconds, "the sink takes changes again");
            self.told_at = None;
        }
    }

    fn failed(&mut self, error: SinkError) -> Next {
        let delay = error.delay(self.backoff.next_delay());
        let now = Timestamp::now();
        let reason = error.to_string();
        self.context.set_caught_up(None);
        self.context.update(|sink| {
            sink.errors += 1;
            sink.failing_since.get_or_insert(now);
            sink.last_error = Some(reason.clone());
            sink.state = SinkState::BackingOff;
            sink.pause = None;
        });
        if self
            .told_at
            .is_none_or(|told| told.elapsed() >= ERROR_INTERVAL)
        {
            self.told_at = Some(Instant::now());
            tracing::warn!(
                sink = %self.context.options.name,
                error = reason,
                retry_in_ms = delay.as_millis() as u64,
                "the sink takes nothing; its changes wait in the database, and nothing else does"
            );
        }
        Next::After(delay)
    }

    async fn show_position(&mut self) {
        let position = self.follower.position();
        let oldest = self.follower.oldest_undelivered();
        let oldest = oldest.and_then(|time| time.parse::<Timestamp>().ok());
        self.context.update(|sink| {
            if let Some(position) = position {
                sink.position = Some(position);
            }
            if oldest.is_some() {
                sink.oldest_undelivered_at = oldest;
            }
        });
        if self.context.has_everything() {
            self.counted_at = None;
            self.context.update(|sink| {
                sink.behind = Some(0);
                sink.oldest_undelivered_at = None;
            });
        } else if self
            .counted_at
            .is_none_or(|counted| counted.elapsed() >= COUNT_INTERVAL)
        {
            self.show_behind().await;
        }
    }

    async fn show_behind(&mut self) {
        self.counted_at = Some(Instant::now());
        // The actors that write report that the database does not answer.
        if let Ok(behind) = self.follower.behind(MOST_COUNTED).await {
            self.context.update(|sink| sink.behind = Some(behind));
        }
    }
}
