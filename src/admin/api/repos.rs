//! `/repos`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ApiState;
use super::answer::Limit;
use super::body::Body;
use super::problem::Problem;
use super::submit::{Act, submit};
use crate::atproto::syntax::Did;
use crate::command::{Caller, Command};
use crate::store::sqlite::RepoListRow;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReposQuery {
    #[serde(default)]
    limit: Limit,
    state: Option<String>,
    /// The DID of the last row of the page before.
    after: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ReposPage {
    items: Vec<RepoListRow>,
    /// The parameter `after` of the next page; `None` at the end.
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Override {
    is_shown: bool,
    #[serde(default)]
    reason: Option<String>,
}

type DidPath = Result<Path<Did>, PathRejection>;

pub(super) async fn list(
    State(state): State<ApiState>,
    query: Result<Query<ReposQuery>, QueryRejection>,
) -> Result<Json<ReposPage>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.0;
    let after = query.after.unwrap_or_default();
    let store = &state.commands.scope.store;
    let items = store.repos(query.state.as_deref(), &after, limit).await?;
    let is_full = items.len() >= limit as usize;
    let next = items.last().filter(|_| is_full).map(|row| row.did.clone());
    Ok(Json(ReposPage { items, next }))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    did: DidPath,
) -> Result<Json<Value>, Problem> {
    let Path(did) = did?;
    Ok(Json(state.commands.scope.store.repo_report(&did).await?))
}

pub(super) async fn resync(did: DidPath, act: Act) -> Result<Response, Problem> {
    let Path(did) = did?;
    act.submit(Command::Resync { did }).await
}

pub(super) async fn recheck(did: DidPath, act: Act) -> Result<Response, Problem> {
    let Path(did) = did?;
    act.submit(Command::Recheck { did }).await
}

pub(super) async fn untrack(did: DidPath, act: Act) -> Result<Response, Problem> {
    let Path(did) = did?;
    act.submit(Command::Untrack { did }).await
}

pub(super) async fn show_account(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    did: DidPath,
    body: Result<Body<Override>, Problem>,
) -> Result<Response, Problem> {
    let (Path(did), Body(body)) = (did?, body?);
    let command = Command::Account {
        did,
        is_shown: body.is_shown,
    };
    submit(&state, &caller, &headers, command, body.reason).await
}
