//! One file an actor. Actors move values, keep time and own state; what is to be done with a value
//! is decided in the pure rooms beside this one.

use std::net::TcpListener;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cursor::CursorMessage;
use self::decoder::Wakeup;
use self::indexer::IndexerMessage;
use self::messages::DecodedBatch;
use crate::repo::Repositories;

use crate::admin::http::HttpState;
use crate::config::Config;
use crate::delivery::budget::Budget;
use crate::delivery::ledger::Ledger;
use crate::source::Source;
use crate::source::process::records::Rules;
use crate::store::{CrashHistory, Store, StoreError};
use crate::supervisor::address::Address;
use crate::telemetry::health::Thresholds;
use crate::telemetry::metrics::{Metrics, SourceMetrics};
use crate::telemetry::status::StatusBoard;
use crate::testing::fault::Faults;

pub mod accumulator;
pub mod connection;
pub mod cursor;
pub mod decoder;
pub mod filter;
pub mod indexer;
pub mod messages;

/// What the actors of one tree share. It outlives every one of them.
pub struct Context {
    pub config: Config,
    pub source: Arc<dyn Source>,
    pub store: Arc<dyn Store>,
    pub rules: Rules,
    /// `None` where nothing is verified.
    pub repositories: Option<Repositories>,
    pub ledger: Arc<Ledger>,
    pub budget: Arc<Budget>,
    pub metrics: Metrics,
    pub source_metrics: SourceMetrics,
    pub prometheus: PrometheusHandle,
    pub status: StatusBoard,
    /// Where the operator's endpoints listen, if they do.
    pub listener: Option<TcpListener>,
    /// Cancelled when no more is to be read.
    pub stop_reading: CancellationToken,
    /// One for each decoder.
    pub decoders: Arc<[Wakeup]>,
    pub filter: Address<DecodedBatch>,
    pub indexer: Address<IndexerMessage>,
    pub cursor: Address<CursorMessage>,
    pub faults: Faults,
    /// How earlier runs ended, once the database has told.
    pub crash_history: OnceLock<CrashHistory>,
    /// Held by the one decoder that reads, where frames are read one by one.
    pub single_frame_lock: Mutex<()>,
    connected_at: OnceLock<Instant>,
}

/// What a tree is made of.
pub struct Parts {
    pub config: Config,
    pub source: Arc<dyn Source>,
    pub store: Arc<dyn Store>,
    pub rules: Rules,
    pub repositories: Option<Repositories>,
    pub listener: Option<TcpListener>,
    /// None but in tests.
    pub faults: Faults,
}

impl Context {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            config,
            source,
            store,
            rules,
            repositories,
            listener,
            faults,
        } = parts;
        let (metrics, prometheus) = Metrics::new();
        let status = StatusBoard::default();
        status.update(|status| status.started_at = Some(Timestamp::now()));
        let budget = usize::try_from(config.memory_budget).unwrap_or(usize::MAX);
        Arc::new(Self {
            ledger: Ledger::new(source.id().clone()),
            budget: Budget::new(budget),
            decoders: (0..config.decoders).map(|_| Wakeup::default()).collect(),
            stop_reading: CancellationToken::new(),
            filter: Address::default(),
            indexer: Address::default(),
            cursor: Address::default(),
            faults,
            crash_history: OnceLock::new(),
            single_frame_lock: Mutex::new(()),
            connected_at: OnceLock::new(),
            source_metrics: metrics.source(source.id()),
            prometheus,
            status,
            config,
            source,
            store,
            rules,
            repositories,
            metrics,
            listener,
        })
    }

    /// What the operator's endpoints read.
    pub(crate) fn endpoints(&self) -> HttpState {
        HttpState {
            metrics: self.metrics.clone(),
            prometheus: self.prometheus.clone(),
            status: self.status.clone(),
            thresholds: Thresholds::from(&self.config),
        }
    }

    /// When the source was reached for the first time.
    pub fn first_connected_at(&self) -> Option<Instant> {
        self.connected_at.get().copied()
    }

    /// Shows why the database takes nothing, in the log as well where that is news.
    fn note_blocked(&self, error: &StoreError) {
        let reason = error.to_string();
        let mut is_news = false;
        self.status
            .update(|status| is_news = status.queue.set_blocked(&reason, Timestamp::now()));
        if is_news {
            tracing::error!(
                reason,
                "the database takes nothing; holding what came and pushing back to the source"
            );
        }
    }

    /// Shows that the database did what it was asked.
    fn note_unblocked(&self) {
        let mut blocked = None;
        self.status
            .update(|status| blocked = status.queue.blocked.take());
        if let Some(blocked) = blocked {
            tracing::info!(since = %blocked.at, "the database takes transactions again");
        }
    }

    /// Keeps `now` where it is the first time; counts it as a reconnect where not.
    fn note_connected(&self, now: Instant) {
        if self.connected_at.set(now).is_err() {
            let source = self.source.id();
            self.status
                .update(|status| status.source_mut(source).reconnects += 1);
        }
    }
}
