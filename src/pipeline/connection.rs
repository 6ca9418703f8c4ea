//! The ConnectionActor: owns one source's connection. It dials, resumes, reads while the budget
//! allows, and enters what it reads into the ledger.

use std::fmt;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, sleep_until};

use super::backlog::DirectoryBacklog;
use super::cursor::CursorMessage;
use super::{Context, Wanted};
use crate::actor::{ActorContext, Arguments};
use crate::atproto::skim::{Skim, skim};
use crate::delivery::backoff::Backoff;
use crate::delivery::segment::Requested;
use crate::delivery::sequence::ResumePoint;
use crate::model::SourceId;
use crate::source::error::{ConnectError, RetryAdvice};
use crate::source::firehose::prefilter::Prefilter;
use crate::source::frame_sink::{BatchLimits, FrameSink};
use crate::source::reconnect::Reconnect;
use crate::source::silence::{SilenceDetector, SilenceLimits};
use crate::source::{Frames, Resume};
use crate::telemetry::excerpt::{LOGGED, excerpt};
use crate::telemetry::status::ConnectionState;
use crate::testing::fault::Point;

/// How long the CursorActor may take to say where to resume.
const RESUME_DEADLINE: Duration = Duration::from_secs(15);
/// How much of each reconnect delay is random.
const JITTER: f64 = 0.3;

/// Owns the connection of one source.
pub struct ConnectionActor;

/// Asks to wait, to dial, or to read a batch.
#[derive(Debug)]
pub struct Step;

pub struct ConnectionActorState {
    context: ActorContext<Context>,
    reconnect: Reconnect,
    silence: SilenceDetector,
    limits: BatchLimits,
    backlog: DirectoryBacklog,
    connection: Option<Box<dyn Frames>>,
    /// When the source is dialled again after a loss.
    dial_at: Option<Instant>,
    /// What the connection was asked to begin with, if it has not delivered anything yet.
    requested: Option<Requested>,
    /// Where the next connection resumes.
    resume: ResumePoint,
    /// The newest seq that was received before this connection.
    resumed_at: u64,
}

/// Why a connection ended, or was never made.
struct Loss {
    advice: RetryAdvice,
    cause: LossCause,
}

enum LossCause {
    Failure(String),
    /// The source has sent nothing for this long.
    Silence(Duration),
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
            backlog: DirectoryBacklog::default(),
            connection: None,
            dial_at: None,
            requested: None,
            resume: ResumePoint::default(),
            resumed_at: 0,
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
        let mut wanted = state.context.control.subscribe();
        let is_paused = state.obey(&wanted.borrow_and_update());
        tokio::select! {
            () = stop.cancelled() => {
                state.connection = None;
                state.show(ConnectionState::Stopped);
                return Ok(());
            }
            // What was read is in the ledger, and the next connection resumes behind it.
            _changed = wanted.changed() => {
                state.note_heard_or_lost();
                state.connection = None;
                state.dial_at = None;
            }
            () = state.advance(is_paused) => {}
        }
        myself.cast(Step)?;
        Ok(())
    }
}

impl ConnectionActorState {
    /// Shows a pause, and drops the connection in it. Returns whether there is one.
    fn obey(&mut self, wanted: &Wanted) -> bool {
        let Some(pause) = &wanted.pause else {
            return false;
        };
        if self.connection.take().is_some() {
            self.note_heard_or_lost();
        }
        self.show(ConnectionState::Paused {
            since: pause.since.clone(),
            by: pause.actor.clone(),
        });
        true
    }

    /// Waits until the next attempt to connect, dials, or reads a batch. In a pause it waits without
    /// end.
    async fn advance(&mut self, is_paused: bool) {
        if is_paused {
            return pending().await;
        }
        if let Some(dial_at) = self.dial_at {
            sleep_until(dial_at).await;
            self.dial_at = None;
            return;
        }
        if let Err(loss) = self.step().await {
            let delay = self.lose(loss);
            self.dial_at = Some(Instant::now() + delay);
        }
    }

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
                cause: LossCause::Failure(error.to_string()),
            }
        })?;
        log_connected(self.context.source.id(), resume);
        let now = Instant::now();
        self.reconnect.connected(now);
        self.silence.wait_from(now);
        self.context.note_connected(now);
        self.connection = Some(connection);
        self.requested = match resume {
            Resume::After(seq) | Resume::With(seq) => Some(Requested {
                seq,
                is_inclusive: resume.is_inclusive(),
            }),
            Resume::Live | Resume::Oldest => None,
        };
        self.resume = ResumePoint::new(self.requested.map_or(0, |requested| requested.seq));
        self.resumed_at = self.context.ledger.received();
        self.show(ConnectionState::Connected {
            since: Timestamp::now(),
        });
        Ok(())
    }

    /// Reads one batch, as soon as the budget has room for it, and not too much waits for the PLC
    /// directory.
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
        if !self.backlog.has_room(&self.context) {
            self.backlog.room(&self.context).await;
            self.silence.wait_from(Instant::now());
        }
        let mut prefilter =
            Prefilter::new(self.context.interest.current(), self.limits).resuming_at(self.resume);
        if let Some(requested) = self.requested {
            prefilter = prefilter.after_reconnect(requested);
        }
        let linger = self.context.options.batch_wait;
        let reading = connection.read_batch(linger, &mut prefilter);
        let outcome = tokio::time::timeout_at(self.silence.deadline(), reading).await;
        self.context
            .pass(Point::ConnectionRead)
            .await
            .map_err(|error| Loss::failure(error.to_string()))?;
        // Frames that were read before the connection ended are valid.
        self.enter(prefilter)?;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Loss::failure(error.to_string())),
            Err(_elapsed) => {
                let silent = self.silence.threshold();
                self.silence.gave_up();
                Err(Loss {
                    advice: RetryAdvice::Backoff,
                    cause: LossCause::Silence(silent),
                })
            }
        }
    }

    fn enter(&mut self, mut prefilter: Prefilter) -> Result<(), Loss> {
        if prefilter.is_empty() {
            return Ok(());
        }
        self.requested = None;
        self.note_heard_or_lost();
        let error = prefilter.last_frame().and_then(error_frame);
        let resume = prefilter.resume_point();
        self.resume = resume.unwrap_or(self.resume);
        let last_seq = resume.map(|resume| resume.seq());
        // The last event of the previous connection does not prove that the source sends new ones.
        // A frame that cannot be read proves that it sends.
        let is_another = last_seq.is_some_and(|seq| seq != self.context.ledger.received());
        if is_another || prefilter.has_unplaced() {
            self.silence.data(Instant::now());
        }
        // It does not prove that the next connection would bring anything else. Neither do events
        // that an earlier connection has brought.
        if last_seq.is_some_and(|seq| seq > self.resumed_at) {
            self.reconnect.received();
        }
        let bytes = prefilter.weight();
        self.backlog.note(prefilter.frame_bytes());
        let commits = prefilter.commits();
        let segments = prefilter.into_segments();
        let charge = self.context.budget.charge(bytes);
        self.context.ledger.enter(segments, last_seq, charge);
        // Only now: a look-up that begins after a frame was entered has what the frame announces.
        if let Some(verification) = &self.context.processor.verification {
            for (did, commits) in &commits {
                if self.context.allows_early_look_up(did) {
                    verification.identities.expect(did, *commits);
                }
            }
        }
        match error {
            Some((name, reason)) => Err(self.error_frame_loss(&name, reason)),
            None => Ok(()),
        }
    }

    /// The loss after an error frame: the server closes the connection after it.
    fn error_frame_loss(&self, name: &str, reason: String) -> Loss {
        if name == "FutureCursor" {
            // If there is no CursorActor, the next attempt meets the same answer.
            let _sent = self.context.cursor.cast(CursorMessage::FutureCursor);
        }
        Loss::failure(reason)
    }

    /// Drops the connection. Returns the delay before the next attempt.
    fn lose(&mut self, loss: Loss) -> Duration {
        self.note_heard_or_lost();
        let Loss { advice, cause } = loss;
        let ignored = self
            .connection
            .take()
            .map_or(0, |connection| connection.ignored());
        let delay = self.reconnect.next_delay(Instant::now(), advice);
        log_loss(self.context.source.id(), &cause, delay, ignored);
        let until = SignedDuration::try_from(delay)
            .ok()
            .and_then(|delay| Timestamp::now().checked_add(delay).ok())
            .unwrap_or(Timestamp::MAX);
        self.show(ConnectionState::BackingOff {
            until,
            reason: cause.to_string(),
        });
        delay
    }

    fn note_heard_or_lost(&self) {
        if let Some(repositories) = &self.context.repositories {
            repositories.stream_start.note_heard_or_lost();
        }
    }

    fn show(&self, connection: ConnectionState) {
        let source = self.context.source.id();
        self.context.status.update(|status| {
            let source = status.source_mut(source);
            source.set_connection(connection, Timestamp::now());
        });
    }
}

/// Loads the tracked repositories from the tables, if that was not done yet.
async fn load_tracked(context: &Context) -> Result<(), Loss> {
    let interest = context.interest.current();
    let (Some(repositories), Some(tracked)) = (&context.repositories, interest.tracked()) else {
        return Ok(());
    };
    if tracked.is_loaded() {
        return Ok(());
    }
    let mut last = String::new();
    loop {
        let page = repositories.store.tracked_behind(&last).await;
        let page = page.map_err(|error| {
            Loss::failure(format!("the tracked repositories cannot be read: {error}"))
        })?;
        tracked.add(page.iter().map(String::as_str));
        match page.into_iter().next_back() {
            Some(did) => last = did,
            None => break,
        }
    }
    tracked.set_loaded();
    Ok(())
}

/// Asks the CursorActor where to resume.
async fn resume(context: &Context) -> Result<Resume, Loss> {
    let answer = match context.cursor.current() {
        Some(cursor) => {
            let answer = cursor.call(CursorMessage::Resume, Some(RESUME_DEADLINE));
            answer.await.ok()
        }
        None => None,
    };
    match answer {
        Some(CallResult::Success(Some(resume))) => Ok(resume),
        _ => Err(Loss::failure("the cursor cannot be read".to_owned())),
    }
}

fn log_connected(source: &SourceId, resume: Resume) {
    let (cursor, from) = match resume {
        Resume::After(seq) | Resume::With(seq) => (Some(seq), None),
        Resume::Live => (None, Some("live")),
        Resume::Oldest => (None, Some("oldest")),
    };
    let inclusive = cursor.map(|_| resume.is_inclusive());
    tracing::info!(%source, cursor, inclusive, from, "connected");
}

fn log_loss(source: &SourceId, cause: &LossCause, delay: Duration, ignored: u64) {
    let retry_in_ms = delay.as_millis() as u64;
    let ignored_text_messages = (ignored > 0).then_some(ignored);
    match cause {
        LossCause::Silence(_) => tracing::info!(
            %source,
            ignored_text_messages,
            retry_in_ms,
            "reconnecting: {cause}"
        ),
        LossCause::Failure(reason) => tracing::warn!(
            %source,
            reason,
            ignored_text_messages,
            retry_in_ms,
            "connection lost; retrying in {}",
            rounded(delay)
        ),
    }
}

/// `delay` for a log line: whole seconds, or milliseconds below one second.
fn rounded(delay: Duration) -> String {
    match delay.as_millis() {
        below @ 0..1000 => format!("{below} ms"),
        _ => format!("{:.0} s", delay.as_secs_f64()),
    }
}

impl Loss {
    fn failure(reason: String) -> Self {
        Self {
            advice: RetryAdvice::Backoff,
            cause: LossCause::Failure(reason),
        }
    }
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(reason) => f.write_str(reason),
            Self::Silence(silent) => write!(f, "source quiet for {} s", silent.as_secs()),
        }
    }
}

/// The name of an error frame, and its text for the log. `None` for other frames.
fn error_frame(frame: &Bytes) -> Option<(String, String)> {
    match skim(frame).ok()? {
        Skim::Error { name, message } => Some((
            excerpt(name, LOGGED).to_owned(),
            format!(
                "{}: {}",
                excerpt(name, LOGGED),
                excerpt(message.unwrap_or("no message"), LOGGED)
            ),
        )),
        _ => None,
    }
}
