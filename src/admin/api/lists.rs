//! `/gaps` and `/operations`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::ApiState;
use super::answer::{Limit, Page};
use super::problem::Problem;
use crate::command::Command;
use crate::model::CommandRow;
use crate::store::sqlite::GapRow;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GapsQuery {
    #[serde(default)]
    limit: Limit,
    before: Option<i64>,
    #[serde(default)]
    only_open: bool,
}

pub(super) async fn gaps(
    State(state): State<ApiState>,
    query: Result<Query<GapsQuery>, QueryRejection>,
) -> Result<Json<Page<GapRow>>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.0;
    let store = &state.commands.scope.store;
    let rows = store.gaps(query.only_open, query.before, limit).await?;
    Ok(Json(Page::new(rows, limit, |row| row.id)))
}

/// The long commands that are not ended.
pub(super) async fn operations(
    State(state): State<ApiState>,
) -> Result<Json<Vec<CommandRow>>, Problem> {
    let rows = state.commands.scope.store.open_commands().await?;
    let long = rows.into_iter().filter(is_long);
    Ok(Json(long.collect()))
}

pub(super) async fn operation(
    State(state): State<ApiState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<CommandRow>, Problem> {
    let Path(id) = id?;
    let row = state.commands.scope.store.command(id).await?;
    let found = row.filter(is_long).map(Json);
    found.ok_or_else(|| Problem::not_found(format!("there is no operation {id}")))
}

fn is_long(row: &CommandRow) -> bool {
    Command::from_parts(&row.kind, &row.arguments).is_ok_and(|command| command.is_long())
}
