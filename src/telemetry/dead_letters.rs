//! Counts and logs dead letters.

use std::time::Duration;

use crate::model::DeadLetter;
use crate::store::plan::effect::Effect;
use crate::telemetry::excerpt::{LOGGED, excerpt};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::rate_limit::SharedRateLimit;

/// At most one line about dead letters is logged in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts dead letters, and limits the log lines about them.
#[derive(Debug)]
pub struct DeadLetterLog(SharedRateLimit);

impl Default for DeadLetterLog {
    fn default() -> Self {
        Self(SharedRateLimit::new(LOG_INTERVAL))
    }
}

impl DeadLetterLog {
    /// Counts and logs the dead letters of `effects`, which are written.
    pub fn note_all<'a>(&self, metrics: &Metrics, effects: impl IntoIterator<Item = &'a Effect>) {
        for letter in effects.into_iter().flat_map(Effect::dead_letters) {
            self.note(metrics, letter);
        }
    }

    /// Counts a dead letter and logs it without its record, which is only in the database, with
    /// excerpts of its texts.
    fn note(&self, metrics: &Metrics, letter: &DeadLetter) {
        metrics.dead_letters(letter.stage).increment(1);
        if let Some(suppressed) = self.0.admit() {
            tracing::warn!(
                stage = letter.stage.as_str(),
                seq = letter.seq,
                did = letter.did.as_deref().map(|did| excerpt(did, LOGGED)),
                uri = letter.uri.as_deref().map(|uri| excerpt(uri, LOGGED)),
                error = excerpt(&letter.error, LOGGED),
                suppressed = (suppressed > 0).then_some(suppressed),
                "kept as a dead letter"
            );
        }
    }
}
