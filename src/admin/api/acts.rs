//! `/backfill`, `/log-level` and `/drain`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::ApiState;
use super::commands::{MayHaveReason, reason_of};
use super::problem::Problem;
use super::submit::submit;
use crate::command::{Caller, Command};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogFilter {
    filter: String,
    for_seconds: u32,
    #[serde(default)]
    reason: Option<String>,
}

macro_rules! acts {
    ($($name:ident: $command:expr;)*) => {
        $(pub(super) async fn $name(
            State(state): State<ApiState>,
            Extension(caller): Extension<Caller>,
            headers: HeaderMap,
            body: MayHaveReason,
        ) -> Result<Response, Problem> {
            let reason = reason_of(body)?;
            submit(&state, &caller, &headers, $command, reason).await
        })*
    };
}

acts! {
    start_backfill: Command::BackfillStart {};
    pause_backfill: Command::BackfillPause {};
    resume_backfill: Command::BackfillResume {};
    cancel_backfill: Command::BackfillCancel {};
    drain: Command::Drain {};
}

pub(super) async fn log_level(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Json<LogFilter>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body?;
    let command = Command::LogLevel {
        filter: body.filter,
        for_seconds: body.for_seconds,
    };
    submit(&state, &caller, &headers, command, body.reason).await
}
