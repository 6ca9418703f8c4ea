//! The body of `/status`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::model::{RepoCounts, Trips};
use crate::telemetry::clocks::ClockStatus;
use crate::telemetry::status::{
    ActorStatus, BudgetStatus, Consumption, DeadLetterStatus, DirectoryFailure, QueueStatus,
    SinkStatus, SourceStatus, Status,
};

/// The status, with the values that depend on the time.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    now: Timestamp,
    started_at: Option<Timestamp>,
    unfinished_runs: u32,
    draining: bool,
    actors: &'a BTreeMap<String, ActorStatus>,
    sources: BTreeMap<&'a str, SourceReport<'a>>,
    queue: &'a QueueStatus,
    repositories: Option<&'a RepoCounts>,
    directory: Option<&'a DirectoryFailure>,
    budget: &'a BudgetStatus,
    pending_removals: u64,
    wal_bytes: u64,
    dead_letters: DeadLetterStatus,
    outdated_collections: &'a [String],
    writer: Trips,
    clock: &'a ClockStatus,
    sinks: BTreeMap<&'a str, SinkReport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumption: Option<&'a Consumption>,
}

#[derive(Debug, Serialize)]
struct SourceReport<'a> {
    #[serde(flatten)]
    source: &'a SourceStatus,
    hit_ratio: Option<f64>,
    /// How far the tables are behind the newest received event; `null` if it is unknown.
    processing_lag_seconds: Option<f64>,
    /// How far the tables are behind the source; `null` if it is unknown.
    source_lag_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct SinkReport<'a> {
    #[serde(flatten)]
    sink: &'a SinkStatus,
    /// How far it is behind the tables; `null` if it is unknown.
    lag_seconds: Option<f64>,
}

impl<'a> Report<'a> {
    pub(super) fn new(status: &'a Status, now: Timestamp) -> Self {
        // Destructured, so that a new field breaks the build here.
        let Status {
            started_at,
            unfinished_runs,
            draining,
            actors,
            sources,
            queue,
            repositories,
            directory,
            budget,
            pending_removals,
            wal_bytes,
            dead_letters,
            outdated_collections,
            writer,
            clock,
            sinks,
            consumption,
        } = status;
        let sinks = sinks.iter().map(|(name, sink)| {
            let lag_seconds = sink.lag_seconds(now);
            (name.as_str(), SinkReport { sink, lag_seconds })
        });
        let oldest_parked_at = status.oldest_parked_at();
        let sources = sources.iter().map(|(id, source)| {
            let report = SourceReport {
                source,
                hit_ratio: source.hit_ratio(),
                processing_lag_seconds: source.lag_seconds(oldest_parked_at, now),
                source_lag_seconds: source.source_lag_seconds(oldest_parked_at, now),
            };
            (id.as_str(), report)
        });
        Self {
            now,
            started_at: *started_at,
            unfinished_runs: *unfinished_runs,
            draining: *draining,
            actors,
            sources: sources.collect(),
            queue,
            repositories: repositories.as_ref(),
            directory: directory.as_ref(),
            budget,
            pending_removals: *pending_removals,
            wal_bytes: *wal_bytes,
            dead_letters: *dead_letters,
            outdated_collections,
            writer: *writer,
            clock,
            sinks: sinks.collect(),
            consumption: consumption.as_ref(),
        }
    }
}
