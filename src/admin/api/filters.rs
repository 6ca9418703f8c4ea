//! `/filters`: the settings that say what is kept, and how it is judged.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ApiState;
use super::body::Body;
use super::commands::{MayHaveReason, reason_of};
use super::problem::Problem;
use super::submit::submit;
use crate::command::{self, Caller, Command, SettingChange, SettingName};
use crate::model::RunTimeSetting;

/// One setting, and where its value comes from.
#[derive(Debug, Serialize)]
pub(super) struct Filter {
    name: SettingName,
    value: Vec<String>,
    configured: Vec<String>,
    /// `None` if the configuration decides.
    set_at: Option<String>,
    set_by: Option<String>,
}

/// A new value: a list, or items with `true` to add and `false` to remove.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewValue {
    value: SettingChange,
    #[serde(default)]
    reason: Option<String>,
}

type NamePath = Result<Path<SettingName>, PathRejection>;

pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<Filter>>, Problem> {
    Ok(Json(filters(&state).await?))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    name: NamePath,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let filter = filter(&state, name).await?;
    let tag = HeaderValue::from_str(&tag_of(&filter.value));
    let mut response = Json(filter).into_response();
    if let Ok(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

pub(super) async fn set(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    name: NamePath,
    body: Result<Body<NewValue>, Problem>,
) -> Result<Response, Problem> {
    let (Path(name), Body(body)) = (name?, body?);
    let expects = Some(expected(&state, name, &headers).await?);
    let command = Command::SettingSet {
        name,
        value: body.value,
        expects,
    };
    submit(&state, &caller, &headers, command, body.reason).await
}

pub(super) async fn reset(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    name: NamePath,
    body: MayHaveReason,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    expected(&state, name, &headers).await?;
    let reason = reason_of(body)?;
    let command = Command::SettingReset { name };
    submit(&state, &caller, &headers, command, reason).await
}

/// The value that the caller has seen: `If-Match` has the tag of the value in force.
async fn expected(
    state: &ApiState,
    name: SettingName,
    headers: &HeaderMap,
) -> Result<Vec<String>, Problem> {
    let Some(seen) = headers.get(header::IF_MATCH) else {
        let detail = "If-Match is missing: send the ETag of the value that you have seen";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
    };
    let filter = filter(state, name).await?;
    let tag = tag_of(&filter.value);
    let mut tags = seen.to_str().unwrap_or_default().split(',').map(str::trim);
    match tags.any(|seen| seen == "*" || seen == tag) {
        true => Ok(filter.value),
        false => {
            let detail = "the value has changed since; `current` is the one in force";
            let problem = Problem::new(StatusCode::PRECONDITION_FAILED, detail);
            Err(problem.with("current", filter.value))
        }
    }
}

async fn filter(state: &ApiState, name: SettingName) -> Result<Filter, Problem> {
    let mut filters = filters(state).await?.into_iter();
    let found = filters.find(|filter| filter.name == name);
    found.ok_or_else(|| Problem::not_found("there is no such filter"))
}

async fn filters(state: &ApiState) -> Result<Vec<Filter>, Problem> {
    let scope = &state.commands.scope;
    let in_force = command::in_force(&scope.store, &scope.configured).await?;
    let changed = scope.store.run_time_settings().await?;
    let filters = SettingName::ALL.into_iter().map(|name| {
        let set = changed.iter().find(|setting| {
            setting.name == name.as_str() && setting.configured == scope.configured.json(name)
        });
        Filter {
            name,
            value: in_force.list(name),
            configured: scope.configured.list(name),
            set_at: set.map(|RunTimeSetting { set_at, .. }| set_at.clone()),
            set_by: set.map(|RunTimeSetting { set_by, .. }| set_by.clone()),
        }
    });
    Ok(filters.collect())
}

/// The ETag of a value.
fn tag_of(value: &[String]) -> String {
    let digest = Sha256::digest(value.join("\n").as_bytes());
    let digits: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{digits}\"")
}
