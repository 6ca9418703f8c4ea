//! Why a host gave no answer, or not the one that was hoped for.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use crate::net::http_client::{self, FetchError};
use crate::net::retry_after;

/// The longest body of a refusal that is looked at. An error of XRPC is much shorter.
const MAX_BODY: usize = 16 << 10;

/// So much is told of an answer that makes no sense, in characters.
const MAX_SHOWN: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is an answer, and it makes no sense.
    #[error("the host's answer makes no sense: {0}")]
    Invalid(String),

    /// The host is one that never will answer this.
    #[error("the host does not know the method")]
    NotSupported,

    /// The host has an answer, of this repository alone.
    #[error(transparent)]
    Repo(#[from] RepoError),

    /// The host wants to be left alone, for as long as it says.
    #[error("the host asks to be asked less")]
    Throttled { retry_after: Option<Duration> },

    /// There is no answer. This says nothing of the repository.
    #[error(transparent)]
    Unavailable(#[from] FetchError),
}

/// Why a host does not give a repository out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepoError {
    #[error("the account is deactivated")]
    Deactivated,
    #[error("the host does not have the repository")]
    NotFound,
    #[error("the account is suspended")]
    Suspended,
    #[error("the account is taken down")]
    Takendown,
}

/// The reference server passes on what it does not know to the services that it is configured with, and
/// says so where there are none.
const NOT_PASSED_ON: &str = "No service configured for ";

/// The body of an error, as far as it matters here.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    #[serde(default)]
    message: String,
}

impl HostError {
    pub(super) fn invalid(reason: impl ToString) -> Self {
        Self::Invalid(reason.to_string().chars().take(MAX_SHOWN).collect())
    }

    /// What an answer means that is not 200.
    pub(super) async fn of(response: Response<Incoming>) -> Self {
        let status = response.status();
        let retry_after = http_client::retry_after(&response);
        let end_of_window = end_of_window(&response);
        match (status, retry_after) {
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                return Self::Throttled {
                    retry_after: retry_after.or(end_of_window),
                };
            }
            (StatusCode::SERVICE_UNAVAILABLE, Some(_)) => return Self::Throttled { retry_after },
            _ => {}
        }
        let body = match read(response.into_body()).await {
            Ok(body) => body,
            Err(error) => return error.into(),
        };
        if body
            .as_ref()
            .is_some_and(|body| body.message.starts_with(NOT_PASSED_ON))
        {
            return Self::NotSupported;
        }
        match (status, body.as_ref().map(|body| body.error.as_str())) {
            (_, Some("RepoDeactivated")) => RepoError::Deactivated.into(),
            (_, Some("RepoNotFound")) => RepoError::NotFound.into(),
            (_, Some("RepoSuspended")) => RepoError::Suspended.into(),
            (_, Some("RepoTakendown")) => RepoError::Takendown.into(),
            // What is asked here is public. Whoever misses a login takes it for another method.
            (_, Some("MethodNotImplemented" | "XRPCNotSupported" | "AuthMissing"))
            | (StatusCode::NOT_IMPLEMENTED, _)
            | (StatusCode::NOT_FOUND, None) => Self::NotSupported,
            _ => Self::Unavailable(FetchError::Status {
                status: status.as_u16(),
                retry_after,
            }),
        }
    }
}

/// An error of XRPC; `None` where the body is something else.
async fn read(body: Incoming) -> Result<Option<ErrorBody>, FetchError> {
    match http_client::read_whole(body, MAX_BODY).await {
        Ok(body) => Ok(serde_json::from_slice(&body).ok()),
        Err(FetchError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// When one may ask again, as the reference server says it: not by `Retry-After`, but as a time in
/// seconds since 1970. It is capped like the other.
fn end_of_window(response: &Response<Incoming>) -> Option<Duration> {
    const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
    let now = Timestamp::now();
    let reset: i64 = http_client::text(response, RESET)?.parse().ok()?;
    let rest = reset.saturating_sub(now.as_second()).max(0);
    retry_after::parse(&rest.to_string(), now)
}
