//! `/sinks`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::body::Body;
use super::problem::Problem;
use super::submit::{Act, submit};
use crate::command::{Caller, Command, FeedPlace};
use crate::telemetry::status::SinkStatus;

/// A sink that is configured.
#[derive(Debug, Serialize)]
pub(super) struct SinkReport {
    name: String,
    #[serde(flatten)]
    status: SinkStatus,
}

/// How far a sink is set back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinkRewind {
    to: FeedPlace,
    #[serde(default)]
    reason: Option<String>,
}

type SinkPath = Result<Path<String>, PathRejection>;

pub(super) async fn list(State(state): State<ApiState>) -> Json<Vec<SinkReport>> {
    Json(reports(&state))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    sink: SinkPath,
) -> Result<Json<SinkReport>, Problem> {
    let Path(sink) = sink?;
    let found = reports(&state)
        .into_iter()
        .find(|report| report.name == sink);
    let unknown = || Problem::not_found(format!("there is no sink {sink}"));
    found.map(Json).ok_or_else(unknown)
}

fn reports(state: &ApiState) -> Vec<SinkReport> {
    let sinks = state.status().map(|status| status.sinks);
    let sinks = sinks.unwrap_or_default().into_iter();
    sinks
        .map(|(name, status)| SinkReport { name, status })
        .collect()
}

pub(super) async fn pause(sink: SinkPath, act: Act) -> Result<Response, Problem> {
    let Path(sink) = sink?;
    act.submit(Command::SinkPause { sink }).await
}

pub(super) async fn resume(sink: SinkPath, act: Act) -> Result<Response, Problem> {
    let Path(sink) = sink?;
    act.submit(Command::SinkResume { sink }).await
}

pub(super) async fn resync(sink: SinkPath, act: Act) -> Result<Response, Problem> {
    let Path(sink) = sink?;
    act.submit(Command::SinkResync { sink }).await
}

pub(super) async fn remove(sink: SinkPath, act: Act) -> Result<Response, Problem> {
    let Path(sink) = sink?;
    act.submit(Command::SinkRemove { sink }).await
}

pub(super) async fn rewind(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    sink: SinkPath,
    body: Result<Body<SinkRewind>, Problem>,
) -> Result<Response, Problem> {
    let (Path(sink), Body(body)) = (sink?, body?);
    let command = Command::SinkRewind { sink, to: body.to };
    submit(&state, &caller, &headers, command, body.reason).await
}
