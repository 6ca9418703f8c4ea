//! Why a host gave no answer, or no usable answer.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use crate::net::http_client::{self, FetchError};
use crate::net::retry_after;

/// The longest body of an error response that is read, in bytes. An error of XRPC is much shorter.
const MAX_BODY: usize = 16 << 10;

/// The most characters of an invalid answer in an error message.
const MAX_SHOWN: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is an answer, and it is not valid.
    #[error("the host's answer is not valid: {0}")]
    Invalid(String),

    /// The host does not have this method.
    #[error("the host does not know the method")]
    NotSupported,

    /// The host's answer about this repository only.
    #[error(transparent)]
    Repo(#[from] RepoError),

    /// The host limits requests. `retry_after` is the delay that it asked for.
    #[error("the host limits requests")]
    Throttled { retry_after: Option<Duration> },

    /// There is no answer. This says nothing about the repository.
    #[error(transparent)]
    Unavailable(#[from] FetchError),
}

/// Why a host does not serve a repository.
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

/// The reference server forwards unknown methods to its configured services. If there is none, its
/// error message begins with this text.
const NOT_PASSED_ON: &str = "No service configured for ";

/// The fields of an error body that are used here.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    #[serde(default)]
    message: String,
}

impl ErrorBody {
    /// Servers have many words for a method that they do not have: `MethodNotImplemented`,
    /// `UnknownMethod`, "Method not found", …
    fn says_unknown_method(&self) -> bool {
        let text = format!("{} {}", self.error, self.message).to_lowercase();
        let text: String = text.split_whitespace().collect();
        let is_method = |word: &str| {
            let ways = [format!("method{word}"), format!("{word}method")];
            ways.iter().any(|way| text.contains(way))
        };
        let words = [
            "notimplemented",
            "notfound",
            "notsupported",
            "unknown",
            "unsupported",
        ];
        self.message.starts_with(NOT_PASSED_ON) || words.into_iter().any(is_method)
    }
}

impl HostError {
    /// How long to wait before the next attempt, if the host was not asked at all.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(error) => error.wait(),
            _ => None,
        }
    }

    pub(super) fn invalid(reason: impl ToString) -> Self {
        Self::Invalid(reason.to_string().chars().take(MAX_SHOWN).collect())
    }

    /// The meaning of a response whose status is not 200.
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
        if body.as_ref().is_some_and(ErrorBody::says_unknown_method) {
            return Self::NotSupported;
        }
        match (status, body.as_ref().map(|body| body.error.as_str())) {
            (_, Some("RepoDeactivated")) => RepoError::Deactivated.into(),
            (_, Some("RepoNotFound")) => RepoError::NotFound.into(),
            (_, Some("RepoSuspended")) => RepoError::Suspended.into(),
            (_, Some("RepoTakendown")) => RepoError::Takendown.into(),
            // The requested methods are public. A host that requires a login takes them for other
            // methods.
            (_, Some("XRPCNotSupported" | "AuthMissing"))
            | (StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED, _)
            | (StatusCode::NOT_FOUND, None | Some("NotFound")) => Self::NotSupported,
            _ => Self::Unavailable(FetchError::Status {
                status: status.as_u16(),
                retry_after,
            }),
        }
    }
}

/// Reads an XRPC error; `None` if the body is something else.
async fn read(body: Incoming) -> Result<Option<ErrorBody>, FetchError> {
    match http_client::read_whole(body, MAX_BODY).await {
        Ok(body) => Ok(serde_json::from_slice(&body).ok()),
        Err(FetchError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The delay before the next request, in the header of the reference server: `RateLimit-Reset`, in
/// seconds since 1970, instead of `Retry-After`. It is capped like `Retry-After`.
fn end_of_window(response: &Response<Incoming>) -> Option<Duration> {
    const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
    let now = Timestamp::now();
    let reset: i64 = http_client::text(response, RESET)?.parse().ok()?;
    let rest = reset.saturating_sub(now.as_second()).max(0);
    retry_after::parse(&rest.to_string(), now)
}
