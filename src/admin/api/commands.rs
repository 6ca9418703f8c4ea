//! `/commands` and `/audit`.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::answer::{Page, PageQuery};
use super::body::Body;
use super::problem::Problem;
use super::submit::{answer, preferred_wait, submit};
use super::{ApiState, MOST_BODY_BYTES};
use crate::command::{Caller, Command, Role};
use crate::model::{AuditRow, CommandRow};
use crate::store::sqlite::Cancelled;

/// The body of a request for a command.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GivenCommand {
    pub command: Command,
    #[serde(default)]
    pub reason: Option<String>,
}

/// The body of a request that only may have a reason.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    #[serde(default)]
    reason: Option<String>,
}

/// A body that may be missing.
pub(super) type MayHaveReason = Result<Option<Body<Reason>>, Problem>;

pub(super) fn reason_of(body: MayHaveReason) -> Result<Option<String>, Problem> {
    Ok(body?.and_then(|Body(body)| body.reason))
}

pub(super) async fn give(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Body<GivenCommand>, Problem>,
) -> Result<Response, Problem> {
    let Body(GivenCommand { command, reason }) = body?;
    submit(&state, &caller, &headers, command, reason).await
}

pub(super) async fn list(
    State(state): State<ApiState>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page<CommandRow>>, Problem> {
    let Query(query) = query?;
    let store = &state.commands.scope.store;
    let rows = store.commands(query.before(), query.limit()).await?;
    Ok(Json(Page::new(rows, query.limit(), |row| row.id)))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    headers: HeaderMap,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    let row = state.commands.ended(id, preferred_wait(&headers)).await?;
    row.map(answer).ok_or_else(|| no_command(id))
}

pub(super) async fn cancel(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<i64>, PathRejection>,
    body: MayHaveReason,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    let reason = reason_of(body)?;
    let store = &state.commands.scope.store;
    let row = store.command(id).await?.ok_or_else(|| no_command(id))?;
    let command = Command::from_parts(&row.kind, &row.arguments);
    let role = command.map_or(Role::Admin, |command| command.role());
    if caller.role < role {
        let problem = format!("{} needs the role {}", row.kind, role.as_str());
        return Err(Problem::forbidden(problem));
    }
    match store.cancel_command(id, &caller.name, reason).await? {
        Cancelled::Done => {}
        Cancelled::TooLate => {
            return Err(Problem::conflict("the command is running, or has ended"));
        }
    }
    let row = store.command(id).await?.ok_or_else(|| no_command(id))?;
    Ok(answer(row))
}

fn no_command(id: i64) -> Problem {
    Problem::not_found(format!("there is no command {id}"))
}

pub(super) async fn audit(
    State(state): State<ApiState>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page<AuditRow>>, Problem> {
    let Query(query) = query?;
    let store = &state.commands.scope.store;
    let rows = store.audit_rows(query.before(), query.limit()).await?;
    Ok(Json(Page::new(rows, query.limit(), |row| row.id)))
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("the body has more than {MOST_BODY_BYTES} bytes");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            }
            status => Self::new(status, rejection.body_text()),
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}
