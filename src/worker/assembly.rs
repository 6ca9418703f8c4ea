//! The parts of a worker, put together but not started.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::directory_report::DirectoryReport;
use super::housekeeping::Household;
use super::options::Options;
use crate::admin::http::{ChangesApi, HttpState};
use crate::admin::http_actor::Endpoints;
use crate::delivery::budget::Budget;
use crate::pipeline;
use crate::repo::{self, Repositories};
use crate::sink;
use crate::sink::actor::SinkContext;
use crate::source::Source;
use crate::source::clock::SourceClock;
use crate::source::process::Processor;
use crate::source::process::records::Rules;
use crate::store::Store;
use crate::store::change_feed::ChangeFeed;
use crate::supervisor::Policy;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusBoard;
use crate::testing::fault::Faults;

/// The parts of a worker, put together but not started.
pub struct Assembly {
    pub context: Arc<pipeline::Context>,
    pub household: Arc<Household>,
    /// `None` if there are no endpoints.
    pub endpoints: Option<Arc<Endpoints>>,
    pub sinks: Vec<Arc<SinkContext>>,
    pub policy: Policy,
    pub drain_timeout: Duration,
}

/// The parts of which an [`Assembly`] is made.
pub struct Parts {
    pub options: Options,
    pub source: Arc<dyn Source>,
    pub store: Arc<dyn Store>,
    /// What the sinks follow; `None` if the store has no feed.
    pub feed: Option<Arc<dyn ChangeFeed>>,
    /// What a request for `/changes` must have; `None` if there is no `/changes`.
    pub changes_token: Option<String>,
    pub rules: Rules,
    /// `None` at level `none`.
    pub repositories: Option<repo::Parts>,
    pub listener: Option<TcpListener>,
    /// Empty outside of tests.
    pub faults: Faults,
}

impl Assembly {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            options,
            source,
            store,
            feed,
            changes_token,
            rules,
            repositories,
            listener,
            faults,
        } = parts;
        let (metrics, prometheus) = Metrics::new();
        let status = StatusBoard::default();
        status.update(|status| status.started_at = Some(Timestamp::now()));
        let budget = Budget::with_sinks(options.memory_budget, options.sinks.len());
        let verification = repositories
            .as_ref()
            .map(|parts| parts.verification.clone());
        let backfill = repositories.as_ref().map(|parts| parts.backfill.is_wanted);
        let processor = Arc::new(Processor {
            rules,
            verification,
            metrics: metrics.clone(),
            clock: SourceClock::default(),
            wants_history: backfill.unwrap_or_default(),
        });
        let repositories =
            repositories.map(|parts| Repositories::new(parts, processor.clone(), budget.clone()));
        let changes = feed.clone().zip(changes_token);
        let changes = changes.map(|(feed, token)| ChangesApi::new(feed, &token));
        let endpoints = listener.map(|listener| {
            Arc::new(Endpoints {
                listener,
                state: HttpState {
                    metrics,
                    prometheus: prometheus.clone(),
                    status: status.clone(),
                    thresholds: options.thresholds,
                    allowed_hosts: options.allowed_hosts.into(),
                    changes,
                },
            })
        });
        let retention = sink::Retention {
            request_days: options.retention.inactive_request_days,
        };
        let retries = options.pipeline.index_retries;
        let sinks = feed.map(|feed| {
            SinkContext::all(&options.sinks, retention, retries, &feed, &budget, &status)
        });
        let household = Arc::new(Household {
            store: store.clone(),
            repositories: repositories.clone(),
            sources: vec![source.id().clone()],
            budget: budget.clone(),
            prometheus,
            status: status.clone(),
            retention: options.retention,
            processor: processor.clone(),
            directory_report: DirectoryReport::default(),
            faults: faults.clone(),
        });
        let context = pipeline::Context::new(pipeline::Parts {
            options: options.pipeline,
            source,
            store,
            processor,
            repositories,
            budget,
            status,
            faults,
        });
        Self {
            context,
            household,
            endpoints,
            sinks: sinks.unwrap_or_default(),
            policy: options.policy,
            drain_timeout: options.drain_timeout,
        }
    }
}
