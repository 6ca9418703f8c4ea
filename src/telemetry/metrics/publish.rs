//! The metrics that are derived from the status.

use jiff::Timestamp;

use super::{Metrics, names};
use crate::model::RepoCounts;
use crate::telemetry::status::{ConnectionState, SourceStatus, Status};

impl Metrics {
    /// Sets the metrics to the values in `status`, at the time `now`. Must be called before each
    /// rendering.
    pub fn publish(&self, status: &Status, now: Timestamp) {
        let gauge = |name, value| self.registry.gauge(name, &[]).set(value);
        gauge(names::BUDGET_LIMIT_BYTES, status.budget.limit_bytes as f64);
        gauge(names::IN_FLIGHT_BYTES, status.budget.in_flight_bytes as f64);
        gauge(names::WAL_BYTES, status.wal_bytes as f64);
        gauge(names::QUEUE_DEPTH, status.queue.depth as f64);
        gauge(
            names::DATABASE_BLOCKED,
            flag(status.queue.blocked.is_some()),
        );
        if let Some(counts) = &status.repositories {
            self.publish_repositories(counts);
        }
        for (name, actor) in &status.actors {
            self.registry
                .counter(names::RESTARTS_TOTAL, &[("actor", name)])
                .absolute(actor.restarts);
        }
        for (id, source) in &status.sources {
            self.publish_source(id, source, now);
        }
    }

    fn publish_repositories(&self, counts: &RepoCounts) {
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
        for (name, count) in [
            (names::PARKED_COMMITS, counts.parked_commits),
            (names::TRACKED_REPOS, counts.tracked),
        ] {
            self.registry.gauge(name, &[]).set(count as f64);
        }
    }

    fn publish_source(&self, id: &str, source: &SourceStatus, now: Timestamp) {
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
            (names::PROCESSING_LAG_SECONDS, source.lag_seconds()),
            (names::SOURCE_LAG_SECONDS, source.source_lag_seconds(now)),
        ];
        for (name, value) in values {
            // An unknown value has no series. A zero would look like good news.
            if let Some(value) = value {
                self.registry.gauge(name, &labels).set(value);
            }
        }
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Position;
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
        status.queue.blocked = Some(Failure {
            at: at(1),
            reason: "disk full".to_owned(),
        });
        status.sources.insert("wss://relay/".to_owned(), source);

        status.repositories = Some(RepoCounts {
            tracked: 12,
            parked_commits: 4,
            ..RepoCounts::default()
        });

        let (metrics, text) = Metrics::new();
        metrics.publish(&status, at(200));
        let text = text.render();
        for line in [
            "huddle_queue_depth 7",
            "huddle_tracked_repos 12",
            "huddle_parked_commits 4",
            "huddle_database_blocked 1",
            "huddle_connected{source=\"wss://relay/\"} 1",
            "huddle_reconnects_total{source=\"wss://relay/\"} 3",
            "huddle_matched_total{source=\"wss://relay/\"} 5",
            "huddle_filter_hit_ratio{source=\"wss://relay/\"} 0.5",
            "huddle_cursor_seq{source=\"wss://relay/\"} 8",
            "huddle_cursor_timestamp_seconds{source=\"wss://relay/\"} 90",
            "huddle_processing_lag_seconds{source=\"wss://relay/\"} 10",
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
        assert!(!text.contains("huddle_processing_lag_seconds{"), "{text}");
        assert!(text.contains("huddle_connected{source=\"wss://relay/\"} 0"));
    }
}
