//! `/sources`.

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
use crate::command::{Caller, Command, CursorSet};
use crate::model::{Position, SourceId};
use crate::store::sqlite::CursorRow;
use crate::telemetry::status::SourceStatus;

/// A source, as far as the database knows it, and as the worker sees it.
#[derive(Debug, Serialize)]
pub(super) struct SourceReport {
    source: String,
    /// The durable cursor; `None` before the first event.
    cursor: Option<Position>,
    /// The worker follows it.
    is_followed: bool,
    /// `None` if the worker does not follow it.
    status: Option<SourceStatus>,
}

/// The new place of a cursor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCursor {
    seq: u64,
    #[serde(default)]
    accept_gap: bool,
    #[serde(default)]
    new_source: bool,
    #[serde(default)]
    reason: Option<String>,
}

/// How far the worker sets a cursor back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewind {
    by_seconds: u32,
    #[serde(default)]
    reason: Option<String>,
}

/// A stretch of the stream.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stretch {
    from: u64,
    #[serde(default)]
    to: Option<u64>,
    #[serde(default)]
    reason: Option<String>,
}

type SourcePath = Result<Path<String>, PathRejection>;

pub(super) async fn list(
    State(state): State<ApiState>,
) -> Result<Json<Vec<SourceReport>>, Problem> {
    Ok(Json(reports(&state).await?))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    source: SourcePath,
) -> Result<Json<SourceReport>, Problem> {
    let Path(source) = source?;
    let mut reports = reports(&state).await?.into_iter();
    let found = reports.find(|report| report.source == source);
    found.map(Json).ok_or_else(|| unknown(&source))
}

async fn reports(state: &ApiState) -> Result<Vec<SourceReport>, Problem> {
    let cursors = state.commands.scope.store.cursors().await?;
    let mut statuses = state
        .status()
        .map_or_else(Default::default, |status| status.sources);
    let mut reports: Vec<SourceReport> = cursors
        .into_iter()
        .filter_map(
            |CursorRow {
                 source, position, ..
             }| {
                let source = source?;
                let status = statuses.remove(&source);
                Some(SourceReport {
                    is_followed: status.is_some(),
                    cursor: (position.seq > 0).then_some(position),
                    source,
                    status,
                })
            },
        )
        .collect();
    let without_cursor = statuses.into_iter().map(|(source, status)| SourceReport {
        source,
        cursor: None,
        is_followed: true,
        status: Some(status),
    });
    reports.extend(without_cursor);
    Ok(reports)
}

fn unknown(source: &str) -> Problem {
    Problem::not_found(format!("there is no source {source}"))
}

pub(super) async fn pause(source: SourcePath, act: Act) -> Result<Response, Problem> {
    let source = source_of(source)?;
    act.submit(Command::SourcePause { source }).await
}

pub(super) async fn resume(source: SourcePath, act: Act) -> Result<Response, Problem> {
    let source = source_of(source)?;
    act.submit(Command::SourceResume { source }).await
}

pub(super) async fn reconnect(source: SourcePath, act: Act) -> Result<Response, Problem> {
    let source = source_of(source)?;
    act.submit(Command::SourceReconnect { source }).await
}

pub(super) async fn reset_cursor(source: SourcePath, act: Act) -> Result<Response, Problem> {
    let source = source_of(source)?;
    act.submit(Command::CursorReset { source }).await
}

fn source_of(path: SourcePath) -> Result<SourceId, Problem> {
    let Path(source) = path?;
    Ok(SourceId::new(&source))
}

pub(super) async fn set_cursor(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    source: SourcePath,
    body: Result<Body<NewCursor>, Problem>,
) -> Result<Response, Problem> {
    let (Path(source), Body(body)) = (source?, body?);
    let command = Command::CursorSet(CursorSet {
        source: SourceId::new(&source),
        seq: body.seq,
        accept_gap: body.accept_gap,
        new_source: body.new_source,
    });
    submit(&state, &caller, &headers, command, body.reason).await
}

pub(super) async fn rewind_cursor(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    source: SourcePath,
    body: Result<Body<Rewind>, Problem>,
) -> Result<Response, Problem> {
    let (Path(source), Body(body)) = (source?, body?);
    let command = Command::CursorRewind {
        source: SourceId::new(&source),
        by_seconds: body.by_seconds,
    };
    submit(&state, &caller, &headers, command, body.reason).await
}

pub(super) async fn rerun(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    source: SourcePath,
    body: Result<Body<Stretch>, Problem>,
) -> Result<Response, Problem> {
    let (Path(source), Body(body)) = (source?, body?);
    let command = Command::Rerun {
        source: SourceId::new(&source),
        from: body.from,
        to: body.to,
    };
    submit(&state, &caller, &headers, command, body.reason).await
}
