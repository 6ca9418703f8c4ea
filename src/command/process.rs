//! Commands about the process: its end, and its log.

use std::time::Duration;

use serde_json::json;

use super::CommandError;
use super::error::MOST_LOG_SECONDS;
use super::scope::{Act, Asked, Outcome, Run};
use crate::telemetry::log;

pub(super) fn drain(run: &Run<'_>) -> Result<Outcome, CommandError> {
    if run.scope.live.is_none() {
        return Err(CommandError::NoWorker);
    }
    Ok(Outcome::Done {
        act: Act::default(),
        result: json!({ "note": "the worker applies what it has read, writes the cursor, and ends" }),
        asked: Some(Asked::Drain),
    })
}

pub(super) fn log_level(
    run: &Run<'_>,
    filter: &str,
    for_seconds: u32,
) -> Result<Outcome, CommandError> {
    if run.scope.live.is_none() {
        return Err(CommandError::NoWorker);
    }
    if !(1..=MOST_LOG_SECONDS).contains(&for_seconds) {
        return Err(CommandError::LogTime(for_seconds));
    }
    let before = log::set_filter_for(filter, Duration::from_secs(for_seconds.into()))?;
    let after = json!({ "filter": filter, "for_seconds": for_seconds });
    Ok(Outcome::Done {
        act: Act {
            before: Some(json!({ "filter": before })),
            after: Some(after.clone()),
        },
        result: after,
        asked: None,
    })
}
