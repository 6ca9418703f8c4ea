//! The metrics that are derived from the status.

use jiff::Timestamp;

use super::{Metrics, names};
use crate::model::{ParkedReason, RepoCounts};
use crate::telemetry::log;
use crate::telemetry::status::{ConnectionState, Consumption, SinkStatus, SourceStatus, Status};

impl Metrics {
    /// Sets the metrics to the values in `status`, at the time `now`. Must be called before each
    /// rendering.
    pub fn publish(&self, status: &Status, now: Timestamp) {
        let gauge = |name, value| self.registry.gauge(name, &[]).set(value);
        gauge(names::BUDGET_LIMIT_BYTES, status.budget.limit_bytes as f64);
        gauge(names::IN_FLIGHT_BYTES, status.budget.in_flight_bytes as f64);
        gauge(names::PENDING_REMOVALS, status.pending_removals as f64);
        gauge(names::WAL_BYTES, status.wal_bytes as f64);
        gauge(names::DEAD_LETTERS_KEPT, status.dead_letters.kept as f64);
        gauge(names::DEAD_LETTERS_BYTES, status.dead_letters.bytes as f64);
        gauge(names::QUEUE_DEPTH, status.queue.depth as f64);
        gauge(
            names::DATABASE_BLOCKED,
            flag(status.queue.blocked.is_some()),
        );
        gauge(names::DIRECTORY_FAILING, flag(status.directory.is_some()));
        let writer = &status.writer;
        for (name, count) in [
            (names::TRANSACTIONS_TOTAL, writer.transactions),
            (names::TRANSACTION_TRIPS_TOTAL, writer.trips),
        ] {
            self.registry.counter(name, &[]).absolute(count);
        }
        let dropped = log::dropped();
        for (reason, lines) in [
            ("queue_full", dropped.queue_full),
            ("suppressed", dropped.suppressed),
            ("write_failed", dropped.write_failed),
        ] {
            self.registry
                .counter(names::LOG_LINES_DROPPED_TOTAL, &[("reason", reason)])
                .absolute(lines);
        }
        if let Some(counts) = &status.repositories {
            self.publish_repositories(counts, now);
        }
        for (name, actor) in &status.actors {
            self.registry
                .counter(names::RESTARTS_TOTAL, &[("actor", name)])
                .absolute(actor.restarts);
        }
        for (name, sink) in &status.sinks {
            self.publish_sink(name, sink, now);
        }
        if let Some(consumption) = &status.consumption {
            self.publish_consumption(consumption);
        }
        for (id, source) in &status.sources {
            self.publish_source(id, source, status.oldest_parked_at(), now);
        }
    }

    fn publish_repositories(&self, counts: &RepoCounts, now: Timestamp) {
        for reason in ParkedReason::ALL {
            let count = counts.parked.of(reason);
            let oldest = count.oldest_at;
            let oldest = oldest.map(|oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
            let labels = [("reason", reason.as_str())];
            let gauge = |name| self.registry.gauge(name, &labels);
            gauge(names::PARKED_COMMITS).set(count.commits as f64);
            gauge(names::OLDEST_PARKED_SECONDS).set(oldest.unwrap_or_default());
        }
        let backfill = &counts.backfill;
        for (name, state, count) in [
            (names::REPOS, "desynchronized", counts.desynchronized),
            (names::REPOS, "resyncing", counts.resyncing),
            (names::REPOS, "throttled", counts.throttled),
            (names::REPOS, "recheck", counts.rechecks),
            (names::REPOS, "parked", counts.with_parked),
            (names::BACKFILL_REPOS, "fetched", backfill.fetched),
            (names::BACKFILL_REPOS, "left", backfill.left),
            (names::BACKFILL_REPOS, "failing", backfill.failing),
        ] {
            let gauge = self.registry.gauge(name, &[("state", state)]);
            gauge.set(count as f64);
        }
        let gauge = self.registry.gauge(names::TRACKED_REPOS, &[]);
        gauge.set(counts.tracked as f64);
    }

    fn publish_sink(&self, name: &str, sink: &SinkStatus, now: Timestamp) {
        let labels = [("sink", name)];
        for (name, count) in [
            (names::SINK_DELIVERED_TOTAL, sink.delivered),
            (names::SINK_ERRORS_TOTAL, sink.errors),
        ] {
            self.registry.counter(name, &labels).absolute(count);
        }
        let last_success = sink
            .last_success_at
            .map(|at| at.as_duration().as_secs_f64());
        for (name, value) in [
            (names::SINK_BEHIND, sink.behind.map(|rows| rows as f64)),
            (
                names::SINK_FAILING,
                Some(flag(sink.failing_since.is_some())),
            ),
            (names::SINK_LAST_SUCCESS_TIMESTAMP_SECONDS, last_success),
            (
                names::SINK_POSITION,
                sink.position.map(|change| change as f64),
            ),
        ] {
            // An unknown value has no series.
            if let Some(value) = value {
                self.registry.gauge(name, &labels).set(value);
            }
        }
        // A lag becomes unknown again.
        let gauge = self.registry.gauge(names::SINK_LAG_SECONDS, &labels);
        gauge.set(sink.lag_seconds(now).unwrap_or(f64::NAN));
    }

    fn publish_consumption(&self, consumption: &Consumption) {
        for (name, count) in [
            (names::CONSUMED_TOTAL, consumption.applied),
            (names::CONSUMER_DEAD_LETTERS_TOTAL, consumption.dead_letters),
            (names::CONSUMER_ERRORS_TOTAL, consumption.errors),
        ] {
            self.registry.counter(name, &[]).absolute(count);
        }
        let gauge = |name, value| self.registry.gauge(name, &[]).set(value);
        gauge(
            names::CONSUMER_FAILING_PARTITIONS,
            consumption.failing.len() as f64,
        );
        gauge(names::CONSUMER_PARTITIONS, consumption.held.len() as f64);
        if let Some(members) = consumption.members {
            gauge(names::CONSUMER_MEMBERS, f64::from(members));
        }
    }

    fn publish_source(
        &self,
        id: &str,
        source: &SourceStatus,
        oldest_parked_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        let labels = [("source", id)];
        let counter = |name, value| self.registry.counter(name, &labels).absolute(value);
        counter(names::MATCHED_TOTAL, source.matched);
        counter(names::RECONNECTS_TOTAL, source.reconnects);

        let is_connected = matches!(source.connection, ConnectionState::Connected { .. });
        let cursor_time = source.applied.time;
        let values = [
            (names::CONNECTED, Some(flag(is_connected))),
            (names::CURSOR_SEQ, Some(source.applied.seq as f64)),
            (
                names::CURSOR_TIMESTAMP_SECONDS,
                cursor_time.map(|time| time.as_duration().as_secs_f64()),
            ),
            (names::FILTER_HIT_RATIO, source.hit_ratio()),
        ];
        for (name, value) in values {
            // An unknown value has no series. A zero would look like good news.
            if let Some(value) = value {
                self.registry.gauge(name, &labels).set(value);
            }
        }
        for (name, lag) in [
            (
                names::PROCESSING_LAG_SECONDS,
                source.lag_seconds(oldest_parked_at, now),
            ),
            (
                names::SOURCE_LAG_SECONDS,
                source.source_lag_seconds(oldest_parked_at, now),
            ),
        ] {
            // A lag becomes unknown again, and a series cannot be taken back.
            let gauge = self.registry.gauge(name, &labels);
            gauge.set(lag.unwrap_or(f64::NAN));
        }
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ParkedCount, ParkedCounts, Position};
    use crate::telemetry::status::Failure;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn position(seq: u64, seconds: i64) -> Position {
        let time = Some(at(seconds));
        Position { seq, time }
    }

    #[test]
    fn a_scrape_agrees_with_the_status() {
        let mut source = SourceStatus {
            reconnects: 3,
            events: 10,
            matched: 5,
            ..SourceStatus::default()
        };
        source.set_connection(ConnectionState::Connected { since: at(1) }, at(1));
        source.set_received(position(9, 100), at(101));
        source.set_applied(position(8, 90), at(102));
        let mut status = Status::default();
        status.queue.depth = 7;
        status.pending_removals = 2;
        status.queue.blocked = Some(Failure {
            at: at(1),
            reason: "disk full".to_owned(),
        });
        status.sources.insert("wss://relay/".to_owned(), source);

        status.repositories = Some(RepoCounts {
            tracked: 12,
            parked: ParkedCounts {
                key: ParkedCount {
                    commits: 4,
                    oldest_at: Some(at(150)),
                },
                account: ParkedCount {
                    commits: 1,
                    oldest_at: Some(at(2)),
                },
                ..ParkedCounts::default()
            },
            ..RepoCounts::default()
        });

        let (metrics, text) = Metrics::new();
        metrics.publish(&status, at(200));
        let text = text.render();
        for line in [
            "huddle_queue_depth 7",
            "huddle_pending_removals 2",
            "huddle_tracked_repos 12",
            "huddle_parked_commits{reason=\"key\"} 4",
            "huddle_parked_commits{reason=\"inactive\"} 0",
            "huddle_parked_commits{reason=\"account\"} 1",
            "huddle_oldest_parked_seconds{reason=\"key\"} 50",
            "huddle_oldest_parked_seconds{reason=\"account\"} 198",
            "huddle_directory_failing 0",
            "huddle_database_blocked 1",
            "huddle_connected{source=\"wss://relay/\"} 1",
            "huddle_reconnects_total{source=\"wss://relay/\"} 3",
            "huddle_matched_total{source=\"wss://relay/\"} 5",
            "huddle_filter_hit_ratio{source=\"wss://relay/\"} 0.5",
            "huddle_cursor_seq{source=\"wss://relay/\"} 8",
            "huddle_cursor_timestamp_seconds{source=\"wss://relay/\"} 90",
            "huddle_processing_lag_seconds{source=\"wss://relay/\"} 50",
            "huddle_source_lag_seconds{source=\"wss://relay/\"} 110",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_unknown_is_not_published_as_zero() {
        let mut status = Status::default();
        let source = SourceStatus::default();
        status.sources.insert("wss://relay/".to_owned(), source);
        let (metrics, text) = Metrics::new();
        metrics.publish(&status, at(0));
        let text = text.render();
        for line in [
            "huddle_processing_lag_seconds{source=\"wss://relay/\"} NaN",
            "huddle_source_lag_seconds{source=\"wss://relay/\"} NaN",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("huddle_filter_hit_ratio{"), "{text}");
        assert!(text.contains("huddle_connected{source=\"wss://relay/\"} 0"));
    }
}
