//! How a request becomes a command, and a command an answer.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::ExtensionRejection;
use axum::extract::{Extension, FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::commands::{MayHaveReason, reason_of};
use super::problem::Problem;
use crate::command::{Caller, Command};
use crate::model::{CommandRow, CommandState, NewCommand, Submitted};

/// The longest wait for the end of a command. A connection has 10 s.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The most characters of a reason, and of a key.
const MOST_REASON: usize = 500;
const MOST_KEY: usize = 100;

/// The header whose value makes a second request the same command.
const KEY: &str = "idempotency-key";

/// A request for an act whose body has at most a reason.
pub(super) struct Act {
    state: ApiState,
    caller: Caller,
    headers: HeaderMap,
    body: MayHaveReason,
}

impl FromRequest<ApiState> for Act {
    type Rejection = ExtensionRejection;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Self::Rejection> {
        let (mut parts, body) = request.into_parts();
        let Extension(caller) = Extension::from_request_parts(&mut parts, state).await?;
        let headers = parts.headers.clone();
        let request = Request::from_parts(parts, body);
        let Ok(body) = MayHaveReason::from_request(request, state).await;
        Ok(Self {
            state: state.clone(),
            caller,
            headers,
            body,
        })
    }
}

impl Act {
    /// Whether it may be a request that was made before: it has a key.
    pub(super) fn may_be_repeated(&self) -> bool {
        self.headers.contains_key(KEY)
    }

    /// Gives `command` for the caller, and answers with its row.
    pub(super) async fn submit(self, command: Command) -> Result<Response, Problem> {
        let reason = reason_of(self.body)?;
        submit(&self.state, &self.caller, &self.headers, command, reason).await
    }
}

/// Gives `command` for `caller`, and answers with its row.
pub(super) async fn submit(
    state: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
    command: Command,
    reason: Option<String>,
) -> Result<Response, Problem> {
    let (role, target) = (command.role(), command.target());
    let (kind, arguments) = command
        .into_parts()
        .map_err(|error| Problem::unprocessable(error.to_string()))?;
    let reason = reason.filter(|reason| !reason.is_empty());
    if reason
        .as_ref()
        .is_some_and(|text| text.chars().count() > MOST_REASON)
    {
        let problem = format!("the reason has more than {MOST_REASON} characters");
        return Err(Problem::unprocessable(problem));
    }
    let new = NewCommand {
        kind,
        arguments,
        actor: caller.name.clone(),
        reason,
        idempotency_key: key(headers)?,
    };
    if caller.role < role {
        let problem = format!("{} needs the role {}", new.kind, role.as_str());
        let store = &state.commands.scope.store;
        store.deny_command(&new, &target, &problem).await?;
        return Err(Problem::forbidden(problem));
    }
    let row = match state.commands.submit(&new).await? {
        Submitted::New(row) | Submitted::Known(row) => row,
        Submitted::KeyIsTaken => {
            let problem = "another request was made with this Idempotency-Key";
            return Err(Problem::unprocessable(problem));
        }
        Submitted::Full => {
            return Err(Problem::unavailable("too many commands wait already"));
        }
    };
    let wait = preferred_wait(headers);
    let ended = state.commands.ended(row.id, wait).await?;
    Ok(answer(ended.unwrap_or(row)))
}

/// The answer that shows a command: 200 when it has ended, or else 202.
pub(super) fn answer(row: CommandRow) -> Response {
    let status = match row.state {
        CommandState::Queued | CommandState::Running | CommandState::Interrupted => {
            StatusCode::ACCEPTED
        }
        _ => StatusCode::OK,
    };
    let location = HeaderValue::from_str(&format!("/admin/v1/commands/{}", row.id));
    let mut response = (status, Json(row)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// How long a request prefers to wait: `Prefer: wait=5` (RFC 7240).
pub(super) fn preferred_wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").into_iter();
    let texts = preferences.filter_map(|value| value.to_str().ok());
    let mut parts = texts.flat_map(|text| text.split([',', ';']));
    let seconds = parts.find_map(|part| part.trim().strip_prefix("wait="));
    let seconds = seconds.and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default()).min(LONGEST_WAIT)
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(KEY) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    match (1..=MOST_KEY).contains(&text.len()) {
        true => Ok(Some(text.to_owned())),
        false => Err(Problem::bad_request(format!(
            "the Idempotency-Key is not text of 1 to {MOST_KEY} characters"
        ))),
    }
}
