//! The ConnectionActor: owns one source's connection. It dials, resumes, reads while there is
//! budget, and enters what it reads into the ledger.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::Context;
use super::cursor::CursorMessage;
use crate::actor::{ActorContext, Arguments};
use crate::atproto::skim::{Skim, skim};
use crate::delivery::backoff::Backoff;
use crate::delivery::segment::Segment;
use crate::source::error::{ConnectError, RetryAdvice};
use crate::source::firehose::prefilter::Prefilter;
use crate::source::frame_sink::{BatchLimits, FrameSink};
use crate::source::reconnect::Reconnect;
use crate::source::silence::{SilenceDetector, SilenceLimits};
use crate::source::{Frames, Resume};
use crate::telemetry::status::ConnectionState;
use crate::testing::fault::Point;

/// How long the CursorActor may take to say where to go on.
const RESUME_DEADLINE: Duration = Duration::from_secs(15);
/// The part of each reconnect delay that is left to chance.
const JITTER: f64 = 0.3;

/// See the module.
pub struct ConnectionActor;

/// Dial, or read a batch.
#[derive(Debug)]
pub struct Step;

pub struct ConnectionActorState {
    context: ActorContext<Context>,
    reconnect: Reconnect,
    silence: SilenceDetector,
    limits: BatchLimits,
    connection: Option<Box<dyn Frames>>,
    /// Nothing has come yet by a connection that is to show that it goes on with the same sequence.
    is_after_reconnect: bool,
}

/// Why a connection is given up, or was never made.
struct Loss {
    advice: RetryAdvice,
    reason: String,
}

impl Actor for ConnectionActor {
    type Msg = Step;
    type State = ConnectionActorState;
    type Arguments = Arguments<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::ConnectionStart).await?;
        let options = &context.options;
        let backoff = Backoff::try_new(
            options.reconnect_min,
            options.reconnect_max,
            JITTER,
            fastrand::Rng::new(),
        )?;
        let silence = SilenceLimits {
            min: options.silence_min,
            max: options.silence_max,
            ..SilenceLimits::default()
        };
        myself.cast(Step)?;
        Ok(ConnectionActorState {
            reconnect: Reconnect::new(backoff, options.healthy_after),
            silence: SilenceDetector::try_new(silence, Instant::now())?,
            limits: options.batch,
            connection: None,
            is_after_reconnect: false,
            context,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        Step: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.context.pass(Point::ConnectionStep).await?;
        let stop = state.context.stop_reading.clone();
        let outcome = tokio::select! {
            () = stop.cancelled() => {
                state.connection = None;
                state.show(ConnectionState::Stopped);
                return Ok(());
            }
            outcome = state.step() => outcome,
        };
        match outcome {
            Ok(()) => myself.cast(Step)?,
            Err(loss) => {
                let delay = state.lose(loss);
                myself.send_after(delay, || Step);
            }
        }
        Ok(())
    }
}

impl ConnectionActorState {
    async fn step(&mut self) -> Result<(), Loss> {
        match self.connection.take() {
            None => self.dial().await,
            Some(mut connection) => {
                let read = self.read(connection.as_mut()).await;
                self.connection = Some(connection);
                read
            }
        }
    }

    async fn dial(&mut self) -> Result<(), Loss> {
        let _busy = self.context.busy();
        self.show(ConnectionState::Connecting);
        load_tracked(&self.context).await?;
        let resume = resume(&self.context).await?;
        let connected = self.context.source.connect(resume).await;
        let connection = connected.map_err(|error| {
            if let ConnectError::Http { status, .. } = error {
                self.context
                    .metrics
                    .rejected_connections(status)
                    .increment(1);
            }
            Loss {
                advice: error.advice(),
                reason: error.to_string(),
            }
        })?;
        tracing::info!(source = %self.context.source.id(), ?resume, "connected");
        let now = Instant::now();
        self.reconnect.connected(now);
        self.silence.wait_from(now);
        self.context.note_connected(now);
        self.connection = Some(connection);
        self.is_after_reconnect = matches!(resume, Resume::With(_));
        self.show(ConnectionState::Connected {
            since: Timestamp::now(),
        });
        Ok(())
    }

    /// Reads one batch, once there is room for it.
    async fn read(&mut self, connection: &mut dyn Frames) -> Result<(), Loss> {
        if !self.context.budget.has_room() {
            let waited_from = Instant::now();
            self.context.budget.room().await;
            self.context
                .metrics
                .budget_wait_seconds
                .record(waited_from.elapsed());
            self.silence.wait_from(Instant::now());
        }
        let mut prefilter = Prefilter::new(self.context.interest.current(), self.limits);
        if self.is_after_reconnect {
            prefilter = prefilter.after_reconnect();
        }
        let linger = self.context.options.batch_wait;
        let reading = connection.read_batch(linger, &mut prefilter);
        let outcome = tokio::time::timeout_at(self.silence.deadline(), reading).await;
        self.context
            .pass(Point::ConnectionRead)
            .await
            .map_err(|error| Loss {
                advice: RetryAdvice::Backoff,
                reason: error.to_string(),
            })?;
        // What was taken before an end is good.
        self.enter(prefilter)?;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Loss {
                advice: RetryAdvice::Backoff,
                reason: error.to_string(),
            }),
            Err(_elapsed) => {
                let silent = self.silence.threshold();
                self.silence.gave_up();
                Err(Loss {
                    advice: RetryAdvice::Backoff,
                    reason: format!("no data for {} s", silent.as_secs()),
                })
            }
        }
    }

    fn enter(&mut self, prefilter: Prefilter) -> Result<(), Loss> {
        if prefilter.is_empty() {
            return Ok(());
        }
        self.is_after_reconnect = false;
        let error = prefilter.last_frame().and_then(error_frame);
        let last_seq = prefilter.last_seq();
        // That the last event comes once more does not show that there are others.
        if last_seq.is_some_and(|seq| seq != self.context.ledger.received()) {
            self.reconnect.received();
            self.silence.data(Instant::now());
        }
        let segments = prefilter.into_segments();
        let bytes = segments.iter().map(Segment::weight).sum();
        let charge = self.context.budget.charge(bytes);
        self.context.ledger.enter(segments, last_seq, charge);
        match error {
            Some((name, reason)) => Err(self.error_frame_loss(&name, reason)),
            None => Ok(()),
        }
    }

    /// The server has given up on this stream, and closes next.
    fn error_frame_loss(&self, name: &str, reason: String) -> Loss {
        if name == "FutureCursor" {
            // Should nobody hear it, the next attempt will meet the same answer.
            let _unheard = self.context.cursor.cast(CursorMessage::FutureCursor);
        }
        Loss {
            advice: RetryAdvice::Backoff,
            reason,
        }
    }

    fn lose(&mut self, loss: Loss) -> Duration {
        let Loss { advice, reason } = loss;
        let ignored = self
            .connection
            .take()
            .map_or(0, |connection| connection.ignored());
        let delay = self.reconnect.next_delay(Instant::now(), advice);
        tracing::warn!(
            source = %self.context.source.id(),
            reason,
            ignored_text_messages = ignored,
            retry_in_ms = delay.as_millis() as u64,
            "not connected"
        );
        let until = SignedDuration::try_from(delay)
            .ok()
            .and_then(|delay| Timestamp::now().checked_add(delay).ok())
            .unwrap_or(Timestamp::MAX);
        self.show(ConnectionState::BackingOff { until, reason });
        delay
    }

    fn show(&self, connection: ConnectionState) {
        let source = self.context.source.id();
        self.context.status.update(|status| {
            let source = status.source_mut(source);
            source.set_connection(connection, Timestamp::now());
        });
    }
}

/// Has the tables say which repositories are tracked, where nobody has asked yet.
async fn load_tracked(context: &Context) -> Result<(), Loss> {
    let interest = context.interest.current();
    let (Some(repositories), Some(tracked)) = (&context.repositories, interest.tracked()) else {
        return Ok(());
    };
    if tracked.is_loaded() {
        return Ok(());
    }
    let dids = repositories.store.tracked().await.map_err(|error| Loss {
        advice: RetryAdvice::Backoff,
        reason: format!("the tracked repositories cannot be read: {error}"),
    })?;
    tracked.load(dids.iter().map(String::as_str));
    Ok(())
}

/// Asks the CursorActor where to go on.
async fn resume(context: &Context) -> Result<Resume, Loss> {
    let asked = match context.cursor.current() {
        Some(cursor) => {
            let asked = cursor.call(CursorMessage::Resume, Some(RESUME_DEADLINE));
            asked.await.ok()
        }
        None => None,
    };
    match asked {
        Some(CallResult::Success(Some(resume))) => Ok(resume),
        _ => Err(Loss {
            advice: RetryAdvice::Backoff,
            reason: "the cursor cannot be read".to_owned(),
        }),
    }
}

/// The error that the frame is, and in words for a log.
fn error_frame(frame: &Bytes) -> Option<(String, String)> {
    match skim(frame).ok()? {
        Skim::Error { name, message } => Some((
            name.to_owned(),
            format!("{name}: {}", message.unwrap_or("no message")),
        )),
        _ => None,
    }
}
