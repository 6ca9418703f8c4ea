//! A failure beside the consumers, such as that of upkeep, as the status and the log tell of it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::sink::SinkError;
use crate::telemetry::status::{Consumption, Failure, StatusBoard};

/// How often the log tells of a failure that lasts.
pub(super) const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Notes that something fails, until it succeeds.
pub(super) struct LastingFailure {
    status: StatusBoard,
    /// Where the status has it.
    field: fn(&mut Consumption) -> &mut Option<Failure>,
    /// When the log told of it last; `None` since it succeeded.
    warned_at: Option<Instant>,
}

impl LastingFailure {
    pub(super) fn new(
        status: StatusBoard,
        field: fn(&mut Consumption) -> &mut Option<Failure>,
    ) -> Self {
        Self {
            status,
            field,
            warned_at: None,
        }
    }

    /// Notes one more attempt that failed. Returns the reason if it is time for a line in the log.
    pub(super) fn failed(&mut self, error: SinkError) -> Option<String> {
        let reason = error.shown().to_string();
        let (field, now) = (self.field, Timestamp::now());
        self.update(|consumption| {
            consumption.errors += 1;
            consumption.last_error = Some(reason.clone());
            let failure = field(consumption).get_or_insert_with(|| Failure {
                at: now,
                reason: String::new(),
            });
            failure.reason.clone_from(&reason);
        });
        let is_due = self
            .warned_at
            .is_none_or(|warned| warned.elapsed() >= WARN_INTERVAL);
        is_due.then(|| {
            self.warned_at = Some(Instant::now());
            reason
        })
    }

    /// Notes that an attempt succeeded. Returns for how many seconds they failed, if the log told of it.
    pub(super) fn ended(&mut self) -> Option<u64> {
        let field = self.field;
        let mut failure = None;
        self.update(|consumption| failure = field(consumption).take());
        self.warned_at.take()?;
        Some(
            Timestamp::now()
                .duration_since(failure?.at)
                .as_secs()
                .unsigned_abs(),
        )
    }

    fn update(&self, change: impl FnOnce(&mut Consumption)) {
        self.status.update(|status| {
            if let Some(consumption) = &mut status.consumption {
                change(consumption);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_tells_of_a_failure_once_a_minute_and_the_status_all_the_time() {
        let status = StatusBoard::default();
        status.update(|status| status.consumption = Some(Consumption::default()));
        let mut failure = LastingFailure::new(status.clone(), |of| &mut of.upkeep_failure);
        let mut lines = 0;
        for _ in 0..130 {
            lines += u32::from(failure.failed(SinkError::unavailable("it broke")).is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 3);
        let shown = || status.snapshot().consumption.unwrap();
        assert_eq!(shown().errors, 130);
        assert_eq!(shown().last_error.as_deref(), Some("it broke"));
        assert_eq!(shown().upkeep_failure.unwrap().reason, "it broke");
        assert!(failure.ended().is_some());
        assert!(shown().upkeep_failure.is_none());
        assert_eq!(failure.ended(), None);
        assert!(failure.failed(SinkError::unavailable("again")).is_some());
    }
}
