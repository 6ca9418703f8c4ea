//! The metrics, and the handles by which the actors write them.
//!
//! A handle is resolved once and costs an atomic addition from then on. Nothing here is global:
//! each worker has a recorder of its own, so that many of them live in one process.
//!
//! What the [`Status`](super::status::Status) knows already is not counted a second time:
//! [`Metrics::publish`] derives it at each scrape, so `/metrics` and `/status` never disagree.
//!
//! `docs/metrics.md` lists every metric with its kind, labels and meaning.

mod collection;
mod names;
mod publish;
mod registry;
mod source;

use std::sync::Arc;

use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::atproto::verify::Level;
use crate::model::{GapCause, Resynced, SourceId, Stage};
use collection::Collections;
use registry::Registry;

pub use collection::CollectionMetrics;
pub use names::{FAMILIES, Family, Kind};
pub use source::{EventCounters, SourceMetrics};

/// All metrics of one worker. Clones write to the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds that the socket waited for the byte budget, with one sample for each wait. Its
    /// `_sum` is the time lost to backpressure.
    pub budget_wait_seconds: Histogram,
    /// Index tasks of one batch, or the chain updates of repositories if there are more of these.
    pub index_batch_size: Histogram,
    /// Batches in one transaction.
    pub index_group_batches: Histogram,
    /// Seconds.
    pub index_commit_seconds: Histogram,
    pub index_retries: Counter,
    pub redelivered: Counter,
    /// Seconds.
    pub socket_to_commit_seconds: Histogram,
    pub key_unavailable: Counter,

    verified_commit: Counter,
    verified_chain: Counter,
    collections: Arc<Collections>,
    registry: Arc<Registry>,
}

impl Metrics {
    /// The metrics of a new worker, and the handle that renders them as Prometheus text.
    ///
    /// `run_upkeep` of the handle must be called every few seconds. Until then the exporter keeps
    /// every single sample of a histogram, so without scrapes the memory would grow without limit.
    pub fn new() -> (Self, PrometheusHandle) {
        let (registry, handle) = Registry::new();
        let registry = Arc::new(registry);
        let verified =
            |level: Level| registry.counter(names::VERIFIED_TOTAL, &[("level", level.as_str())]);
        let metrics = Self {
            verified_commit: verified(Level::Commit),
            verified_chain: verified(Level::Chain),
            budget_wait_seconds: registry.histogram(names::BUDGET_WAIT_SECONDS),
            index_batch_size: registry.histogram(names::INDEX_BATCH_SIZE),
            index_group_batches: registry.histogram(names::INDEX_GROUP_BATCHES),
            index_commit_seconds: registry.histogram(names::INDEX_COMMIT_SECONDS),
            index_retries: registry.counter(names::INDEX_RETRIES_TOTAL, &[]),
            redelivered: registry.counter(names::REDELIVERED_TOTAL, &[]),
            socket_to_commit_seconds: registry.histogram(names::SOCKET_TO_COMMIT_SECONDS),
            key_unavailable: registry.counter(names::KEY_UNAVAILABLE_TOTAL, &[]),
            collections: Arc::new(Collections::new(registry.clone())),
            registry,
        };
        // Registered at the start, so that the first occurrence of each is visible as an increase.
        for stage in Stage::ALL {
            metrics.dead_letters(stage).increment(0);
        }
        for cause in GapCause::ALL {
            metrics.gaps(cause).increment(0);
        }
        (metrics, handle)
    }

    /// The handles of one source. Keep them, because this call registers each one.
    pub fn source(&self, source: &SourceId) -> SourceMetrics {
        SourceMetrics::new(&self.registry, source)
    }

    /// The handles of one collection; beyond a few hundred collections, those of `other`.
    pub fn collection(&self, collection: &str) -> Arc<CollectionMetrics> {
        self.collections.resolve(collection)
    }

    pub fn dead_letters(&self, stage: Stage) -> Counter {
        let labels = [("stage", stage.as_str())];
        self.registry.counter(names::DEAD_LETTERS_TOTAL, &labels)
    }

    pub fn gaps(&self, cause: GapCause) -> Counter {
        let labels = [("cause", cause.as_str())];
        self.registry.counter(names::GAPS_TOTAL, &labels)
    }

    /// The counter of commits that were verified at `level`.
    pub fn verified(&self, level: Level) -> &Counter {
        match level {
            Level::Commit => &self.verified_commit,
            Level::Chain => &self.verified_chain,
        }
    }

    /// `error` is the fixed name of an error, never a text from the network.
    pub fn verify_errors(&self, error: &'static str) -> Counter {
        let labels = [("error", error)];
        self.registry.counter(names::VERIFY_ERRORS_TOTAL, &labels)
    }

    /// Counts commits that were applied although they name a wrong rev before them.
    pub fn wrong_sinces(&self, count: u64) {
        if count > 0 {
            self.verify_errors("since").increment(count);
        }
    }

    /// Counts a fetched repository and the resulting changes.
    pub fn resynced(&self, done: &Resynced) {
        self.resyncs("done").increment(1);
        for (operation, records) in [
            ("create", done.created),
            ("update", done.updated),
            ("delete", done.deleted),
        ] {
            let labels = [("operation", operation)];
            let counter = self
                .registry
                .counter(names::RESYNCED_RECORDS_TOTAL, &labels);
            counter.increment(records);
        }
    }

    /// The counter of repositories that could not be fetched, or not at present.
    pub fn failed_resyncs(&self, is_throttled: bool) -> Counter {
        self.resyncs(if is_throttled { "throttled" } else { "failed" })
    }

    fn resyncs(&self, outcome: &'static str) -> Counter {
        let labels = [("outcome", outcome)];
        self.registry.counter(names::RESYNCS_TOTAL, &labels)
    }

    /// `kind` is one of a few fixed words of this program, never a text from the network.
    pub fn seq_anomalies(&self, kind: &'static str) -> Counter {
        let labels = [("kind", kind)];
        self.registry.counter(names::SEQ_ANOMALIES_TOTAL, &labels)
    }

    /// `status` is the HTTP status of the refusal. A status that HTTP does not define counts as
    /// `other`.
    pub fn rejected_connections(&self, status: u16) -> Counter {
        let status = match status {
            300..=599 => status.to_string(),
            _ => "other".to_owned(),
        };
        let labels = [("status", status.as_str())];
        self.registry
            .counter(names::REJECTED_CONNECTIONS_TOTAL, &labels)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::Position;
    use crate::model::RepoCounts;
    use crate::telemetry::status::{
        ActorState, ActorStatus, Consumption, SinkStatus, SourceStatus, Status,
    };

    fn a_busy_worker() -> (Metrics, Status) {
        let (metrics, _) = Metrics::new();
        let time = Some(Timestamp::UNIX_EPOCH);
        let source = SourceStatus {
            events: 4,
            matched: 1,
            received: Position { seq: 9, time },
            applied: Position { seq: 8, time },
            last_frame_at: time,
            ..SourceStatus::default()
        };
        let actor = ActorStatus {
            state: ActorState::Running,
            restarts: 2,
            last_failure: None,
        };
        let sink = SinkStatus {
            position: Some(7),
            behind: Some(2),
            last_success_at: time,
            ..SinkStatus::default()
        };
        let status = Status {
            sinks: [("postgres".to_owned(), sink)].into(),
            sources: [("wss://relay/".to_owned(), source)].into(),
            actors: [("indexer".to_owned(), actor)].into(),
            repositories: Some(RepoCounts::default()),
            consumption: Some(Consumption {
                members: Some(1),
                ..Consumption::default()
            }),
            ..Status::default()
        };
        (metrics, status)
    }

    fn word(kind: Kind) -> &'static str {
        match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }

    #[test]
    fn every_family_is_rendered_with_its_help_and_kind() {
        let (metrics, status) = a_busy_worker();
        metrics.source(&SourceId::new("wss://relay/"));
        metrics.collection("com.huddle.booking");
        metrics.seq_anomalies("regression").increment(0);
        metrics.rejected_connections(503).increment(0);
        metrics.verified(Level::Chain).increment(0);
        metrics.verify_errors("signature").increment(0);
        metrics.resynced(&Resynced::default());
        metrics.publish(&status, Timestamp::UNIX_EPOCH);
        let text = metrics.registry.render();
        for Family { name, kind, help } in FAMILIES {
            let kind = word(*kind);
            for line in [
                format!("# HELP {name} {help}\n"),
                format!("# TYPE {name} {kind}\n"),
            ] {
                assert!(text.contains(&line), "{line} is missing in\n{text}");
            }
        }
        let rendered = text.lines().filter(|line| line.starts_with("# TYPE"));
        assert_eq!(rendered.count(), FAMILIES.len());
    }

    #[test]
    fn the_table_of_the_documentation_has_every_family() {
        let rows: Vec<_> = include_str!("../../../docs/metrics.md")
            .lines()
            .filter(|line| line.starts_with("| `huddle_"))
            .filter_map(|line| {
                let mut cells = line.trim_matches('|').split('|').map(str::trim);
                let name = cells.next()?.trim_matches('`').to_owned();
                let kind = cells.next()?.to_owned();
                Some((name, kind))
            })
            // The table of old names has no kinds.
            .filter(|(_, kind)| !kind.starts_with('`'))
            .collect();
        let families: Vec<_> = FAMILIES
            .iter()
            .map(|family| (family.name.to_owned(), word(family.kind).to_owned()))
            .collect();
        assert_eq!(rows, families);
    }

    #[test]
    fn two_workers_in_one_process_do_not_mix() {
        let (one, one_text) = Metrics::new();
        let (_two, two_text) = Metrics::new();
        one.redelivered.increment(3);
        assert!(one_text.render().contains("huddle_redelivered_total 3\n"));
        assert!(two_text.render().contains("huddle_redelivered_total 0\n"));
    }

    #[test]
    fn a_clone_writes_to_the_same_metrics() {
        let (metrics, text) = Metrics::new();
        metrics.clone().dead_letters(Stage::Validate).increment(1);
        metrics.dead_letters(Stage::Validate).increment(1);
        let line = "huddle_dead_letters_total{stage=\"validate\"} 2\n";
        assert!(text.render().contains(line));
    }

    #[test]
    fn a_status_that_http_does_not_have_makes_no_series_of_its_own() {
        let (metrics, text) = Metrics::new();
        metrics.rejected_connections(9999).increment(1);
        metrics.rejected_connections(429).increment(1);
        let text = text.render();
        assert!(text.contains("{status=\"other\"} 1\n"), "{text}");
        assert!(text.contains("{status=\"429\"} 1\n"), "{text}");
    }
}
