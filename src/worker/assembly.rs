//! The parts of a worker, put together but not started.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::children::Role;
use super::directory_report::DirectoryReport;
use super::doors::AdminDoor;
use super::housekeeping::{Household, Marks};
use super::options::Options;
use crate::admin::api::ApiState;
use crate::admin::api_actor::{ApiDoor, Entry};
use crate::admin::control::ControlSocket;
use crate::admin::http::{ChangesApi, HttpState};
use crate::admin::http_actor::Endpoints;
use crate::command::{Commands, Live, Reruns, Scope, Tasks};
use crate::delivery::budget::Budget;
use crate::lexicon::TypedView;
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
    /// `None` if no commands are taken.
    pub commands: Option<Arc<Commands>>,
    /// Where commands are taken.
    pub doors: Vec<(Role, Arc<ApiDoor>)>,
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
    /// The views of lexicons, which sinks of tables have too.
    pub views: Arc<[TypedView]>,
    /// What a request for `/changes` must have; `None` if there is no `/changes`.
    pub changes_token: Option<String>,
    pub rules: Rules,
    /// `None` at level `none`.
    pub repositories: Option<repo::Parts>,
    pub listener: Option<TcpListener>,
    /// `None` if no commands are taken.
    pub control: Option<ControlParts>,
    /// Empty outside of tests.
    pub faults: Faults,
}

/// What a worker takes commands with.
pub struct ControlParts {
    /// Without a worker.
    pub scope: Scope,
    pub socket: Option<ControlSocket>,
    pub admin: Option<AdminDoor>,
}

impl Assembly {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            options,
            source,
            store,
            feed,
            views,
            changes_token,
            rules,
            repositories,
            listener,
            control,
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
        let allowed_hosts: Arc<[String]> = options.allowed_hosts.into();
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
                    allowed_hosts: allowed_hosts.clone(),
                    changes,
                },
            })
        });
        let marks = control.as_ref().map(|parts| Marks {
            store: parts.scope.store.clone(),
            window: options.pipeline.upstream_window,
        });
        let tables = sink::TableOptions {
            request_days: options.retention.inactive_request_days,
            views,
        };
        let retries = options.pipeline.index_retries;
        let sinks = feed.map(|feed| {
            SinkContext::all(&options.sinks, &tables, retries, &feed, &budget, &status)
        });
        let sinks = sinks.unwrap_or_default();
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
            marks,
            recheck: options.recheck,
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
        let commands = control
            .as_ref()
            .map(|parts| parts.commands(context.clone(), &sinks));
        let doors = match (control, &commands) {
            (Some(parts), Some(commands)) => parts.doors(commands, &allowed_hosts),
            _ => Vec::new(),
        };
        Self {
            context,
            household,
            endpoints,
            commands,
            doors,
            sinks,
            policy: options.policy,
            drain_timeout: options.drain_timeout,
        }
    }
}

impl ControlParts {
    fn commands(
        &self,
        context: Arc<pipeline::Context>,
        sinks: &[Arc<SinkContext>],
    ) -> Arc<Commands> {
        Commands::new(Scope {
            live: Some(Live {
                context,
                sinks: sinks.to_vec(),
                asked: watch::Sender::new(None),
                reruns: Reruns::default(),
                rewinds: Tasks::default(),
            }),
            ..self.scope.clone()
        })
    }

    fn doors(
        self,
        commands: &Arc<Commands>,
        allowed_hosts: &Arc<[String]>,
    ) -> Vec<(Role, Arc<ApiDoor>)> {
        let door = |role, entry, tokens| {
            let state = ApiState::new(commands.clone(), tokens, allowed_hosts.clone());
            (role, Arc::new(ApiDoor { entry, state }))
        };
        let socket = self
            .socket
            .map(|socket| door(Role::Control, Entry::Socket(socket), None));
        let admin = self.admin.map(|AdminDoor { listener, tokens }| {
            door(Role::Admin, Entry::Address(listener), Some(tokens))
        });
        socket.into_iter().chain(admin).collect()
    }
}
