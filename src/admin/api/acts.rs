//! `/backfill`, `/log-level` and `/drain`.

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::ApiState;
use super::body::Body;
use super::problem::Problem;
use super::submit::{Act, submit};
use crate::command::{Caller, Command};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogFilter {
    filter: String,
    for_seconds: u32,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn start_backfill(act: Act) -> Result<Response, Problem> {
    act.submit(Command::BackfillStart {}).await
}

pub(super) async fn pause_backfill(act: Act) -> Result<Response, Problem> {
    act.submit(Command::BackfillPause {}).await
}

pub(super) async fn resume_backfill(act: Act) -> Result<Response, Problem> {
    act.submit(Command::BackfillResume {}).await
}

pub(super) async fn cancel_backfill(act: Act) -> Result<Response, Problem> {
    act.submit(Command::BackfillCancel {}).await
}

pub(super) async fn drain(act: Act) -> Result<Response, Problem> {
    act.submit(Command::Drain {}).await
}

pub(super) async fn log_level(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Body<LogFilter>, Problem>,
) -> Result<Response, Problem> {
    let Body(body) = body?;
    let command = Command::LogLevel {
        filter: body.filter,
        for_seconds: body.for_seconds,
    };
    submit(&state, &caller, &headers, command, body.reason).await
}
