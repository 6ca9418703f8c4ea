//! What the actors of one source share.

use std::sync::{Arc, OnceLock, PoisonError};

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::control::SourceControl;
use super::cursor::CursorMessage;
use super::decoder::Wakeup;
use super::indexer::IndexerMessage;
use super::messages::DecodedBatch;
use super::options::Options;
use crate::actor::address::Address;
use crate::atproto::syntax::Did;
use crate::delivery::budget::Budget;
use crate::delivery::ledger::Ledger;
use crate::repo::Repositories;
use crate::source::Source;
use crate::source::interest::InterestInForce;
use crate::source::process::Processor;
use crate::source::readability::{Readability, Verdict};
use crate::store::plan::effect::Effect;
use crate::store::{CrashHistory, Store, StoreError};
use crate::telemetry::dead_letters::DeadLetterLog;
use crate::telemetry::excerpt::{LOGGED, excerpt};
use crate::telemetry::metrics::{Metrics, SourceMetrics};
use crate::telemetry::status::{Failure, StatusBoard};
use crate::testing::fault::Faults;

/// What the actors of one source share. It outlives all of them.
pub struct Context {
    pub options: Options,
    pub source: Arc<dyn Source>,
    pub store: Arc<dyn Store>,
    pub processor: Arc<Processor>,
    /// Owned by the FilterActor.
    pub interest: InterestInForce,
    /// `None` at level `none`.
    pub repositories: Option<Arc<Repositories>>,
    pub ledger: Arc<Ledger>,
    /// The budget of the whole worker.
    pub budget: Arc<Budget>,
    pub metrics: Metrics,
    pub source_metrics: SourceMetrics,
    pub status: StatusBoard,
    /// Cancelled when a drain begins.
    pub stop_reading: CancellationToken,
    /// What an operator asks of the connection.
    pub control: SourceControl,
    /// One wakeup for each decoder.
    pub decoders: Arc<[Wakeup]>,
    pub filter: Address<DecodedBatch>,
    pub indexer: Address<IndexerMessage>,
    pub cursor: Address<CursorMessage>,
    pub faults: Faults,
    /// For what is written beside the IndexerActor too.
    dead_letters: DeadLetterLog,
    /// How earlier runs ended. It is set when the database was read.
    pub crash_history: OnceLock<CrashHistory>,
    /// Held by the decoder that reads, while frames are read one by one. A job that is suspected of
    /// the same as a frame holds it too.
    pub single_frame_lock: Arc<Mutex<()>>,
    connected_at: OnceLock<Instant>,
    readability: std::sync::Mutex<Readability>,
}

/// The parts of which a [`Context`] is made.
pub struct Parts {
    pub options: Options,
    pub source: Arc<dyn Source>,
    pub store: Arc<dyn Store>,
    pub processor: Arc<Processor>,
    pub repositories: Option<Arc<Repositories>>,
    pub budget: Arc<Budget>,
    pub status: StatusBoard,
    pub faults: Faults,
}

impl Context {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            options,
            source,
            store,
            processor,
            repositories,
            budget,
            status,
            faults,
        } = parts;
        let metrics = processor.metrics.clone();
        let context = Arc::new(Self {
            ledger: Ledger::new(source.id().clone()),
            decoders: (0..options.decoders).map(|_| Wakeup::default()).collect(),
            interest: InterestInForce::new(processor.rules.interest.clone()),
            stop_reading: CancellationToken::new(),
            control: SourceControl::default(),
            filter: Address::default(),
            indexer: Address::default(),
            dead_letters: DeadLetterLog::default(),
            cursor: Address::default(),
            crash_history: OnceLock::new(),
            single_frame_lock: repositories
                .as_ref()
                .map_or_else(Arc::default, |repositories| repositories.isolation.alone()),
            connected_at: OnceLock::new(),
            readability: std::sync::Mutex::default(),
            source_metrics: metrics.source(source.id()),
            options,
            source,
            store,
            processor,
            repositories,
            budget,
            metrics,
            status,
            faults,
        });
        let wakeups = context.decoders.clone();
        context.ledger.on_unacked(move || {
            for wakeup in wakeups.iter() {
                wakeup.wake();
            }
        });
        context
    }

    /// Counts and logs the dead letters of `effects`, which are written.
    pub(crate) fn note_dead_letters<'a>(&self, effects: impl IntoIterator<Item = &'a Effect>) {
        self.dead_letters.note_all(&self.metrics, effects);
    }

    /// Whether the account may be looked up before a job needs its key.
    pub(super) fn allows_early_look_up(&self, did: &Did) -> bool {
        let repositories = self.repositories.as_ref();
        repositories.is_none_or(|all| all.isolation.allows_early_look_up(did))
    }

    /// When the source was first reached.
    pub fn first_connected_at(&self) -> Option<Instant> {
        self.connected_at.get().copied()
    }

    /// Shows why database writes fail; logs it once per incident.
    pub(super) fn note_blocked(&self, error: &StoreError) {
        let reason = error.to_string();
        let mut is_new = false;
        self.status
            .update(|status| is_new = status.queue.set_blocked(&reason, Timestamp::now()));
        if is_new {
            tracing::error!(
                reason,
                "database writes fail; retrying, nothing lost, reading pauses when the memory budget is full"
            );
        }
    }

    /// Shows that the database accepts writes.
    pub(super) fn note_unblocked(&self) {
        let mut blocked = None;
        self.status
            .update(|status| blocked = status.queue.blocked.take());
        if let Some(blocked) = blocked {
            tracing::info!(since = %blocked.at, "database writes succeed again");
        }
    }

    /// Notes how many frames of a batch could be read, and why the last of the others could not.
    /// Shows and logs a source of which nothing can be read, once per incident.
    pub(super) fn note_reading(&self, readable: u64, unreadable: u64, error: Option<&str>) {
        let mut readability = self
            .readability
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let verdict = readability.note(Instant::now(), readable, unreadable);
        drop(readability);
        let source = self.source.id();
        let show = |failure| {
            self.status
                .update(|status| status.source_mut(source).unreadable = failure);
        };
        match verdict {
            None => {}
            Some(Verdict::Unreadable { unreadable, frames }) => {
                let error = excerpt(error.unwrap_or("unknown"), LOGGED);
                tracing::error!(
                    %source,
                    unreadable,
                    frames,
                    error,
                    "the source cannot be read; its frames are kept as dead letters, and reading goes on"
                );
                show(Some(Failure {
                    at: Timestamp::now(),
                    reason: format!("{unreadable} of {frames} frames; the last: {error}"),
                }));
            }
            Some(Verdict::ReadableAgain) => {
                tracing::info!(%source, "the source can be read again");
                show(None);
            }
        }
    }

    /// Remembers the first connection; counts later ones as reconnects.
    pub(super) fn note_connected(&self, now: Instant) {
        if let Some(repositories) = &self.repositories {
            repositories.stream_start.note_connected(now);
        }
        if self.connected_at.set(now).is_err() {
            let source = self.source.id();
            self.status
                .update(|status| status.source_mut(source).reconnects += 1);
        }
    }
}
