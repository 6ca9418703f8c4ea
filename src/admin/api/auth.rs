//! Who makes a request, and whether it may come at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::problem::Problem;
use super::{ApiState, Entrance};
use crate::admin::http::{is_foreign, refused_host};
use crate::command::Caller;
use crate::model::{AuditEntry, AuditOutcome};

/// How many requests without a valid token one address may make in a time.
const MOST_FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// How many addresses are counted. Beyond that all others share one count.
const MOST_ADDRESSES: usize = 1024;

/// Counts requests without a valid token.
#[derive(Debug, Default)]
pub struct Failures(Mutex<BTreeMap<Option<IpAddr>, (Instant, u32)>>);

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
enum Denial {
    /// There were too many before it.
    TooMany,
    /// It had no token, or a wrong one.
    NoToken,
}

impl Failures {
    /// Whether the address may try at all.
    fn may_try(&self, address: IpAddr, now: Instant) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key_in(&counts, address);
        let count = counts.get(&key).filter(|(since, _)| now - *since < WINDOW);
        count.is_none_or(|(_, failures)| *failures < MOST_FAILURES)
    }

    fn note(&self, address: IpAddr, now: Instant) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|_, (since, _)| now - *since < WINDOW);
        let key = key_in(&counts, address);
        counts.entry(key).or_insert((now, 0)).1 += 1;
    }
}

fn key_in(counts: &BTreeMap<Option<IpAddr>, (Instant, u32)>, address: IpAddr) -> Option<IpAddr> {
    let key = Some(address);
    (counts.contains_key(&key) || counts.len() < MOST_ADDRESSES)
        .then_some(key)
        .flatten()
}

/// Notes that the request is complete, finds out who makes it, and refuses it if it may not come. What
/// comes over the control socket was let in by its user.
pub(super) async fn admit(
    State(state): State<ApiState>,
    ConnectInfo(entrance): ConnectInfo<Entrance>,
    mut request: Request,
    next: Next,
) -> Response {
    entrance.place.complete_request();
    let admitted = match &entrance.caller {
        Some(caller) => Ok(caller.clone()),
        None => outsider(&state, &entrance, &request),
    };
    let caller = match admitted {
        Ok(caller) => caller,
        Err(Refusal { problem, denied }) => {
            if let Some((address, path)) = denied {
                note_denial(&state, address, path).await;
            }
            return problem.into_response();
        }
    };
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(entrance);
    next.run(request).await
}

/// Why a request is refused.
struct Refusal {
    problem: Problem,
    /// Where it came from, and its path, if it belongs into the audit.
    denied: Option<(IpAddr, String)>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            denied: None,
        }
    }
}

/// Who makes a request that came over the network.
fn outsider(state: &ApiState, entrance: &Entrance, request: &Request) -> Result<Caller, Refusal> {
    if let Some(status) = refused_host(request, &state.allowed_hosts) {
        let detail = "the Host is no IP address, not localhost, and not in allowed_hosts";
        return Err(Problem::new(status, detail).into());
    }
    if is_foreign(request.headers()) {
        let detail = "a page of another origin may not make requests";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
    }
    let Some(address) = entrance.address else {
        return Err(Problem::unauthorized().into());
    };
    match caller_of(state, address, request.headers()) {
        Ok(caller) => Ok(caller),
        Err(Denial::TooMany) => {
            let detail = "too many requests without a valid token; wait a minute";
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).into())
        }
        Err(Denial::NoToken) => Err(Refusal {
            problem: Problem::unauthorized(),
            denied: Some((address, request.uri().path().chars().take(200).collect())),
        }),
    }
}

/// Finds the caller by the token. A valid token is always let in. Failures of others at the same address do
/// not count against it: a stranger behind the same proxy must not keep an operator out, and a token is too
/// long to be guessed.
fn caller_of(state: &ApiState, address: IpAddr, headers: &HeaderMap) -> Result<Caller, Denial> {
    let found = state.tokens.as_ref().map(|tokens| {
        // One that is missing is looked for like a wrong one.
        tokens.caller(bearer(headers).unwrap_or_default())
    });
    match found {
        Some(Ok(Some(caller))) => return Ok(caller),
        Some(Err(error)) => {
            tracing::error!(%error, "the tokens cannot be read, so that no request is allowed");
        }
        Some(Ok(None)) | None => {}
    }
    let now = Instant::now();
    match state.failures.may_try(address, now) {
        true => {
            state.failures.note(address, now);
            Err(Denial::NoToken)
        }
        false => Err(Denial::TooMany),
    }
}

/// The token of a request.
pub(in crate::admin) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Writes a denied attempt to the audit. Their number is limited, and no secret is among it.
async fn note_denial(state: &ApiState, address: IpAddr, path: String) {
    let entry = AuditEntry {
        actor: format!("address {address}"),
        command: None,
        action: "request".to_owned(),
        target: path,
        before: None,
        after: None,
        reason: None,
        outcome: AuditOutcome::Denied("no valid token".to_owned()),
    };
    if let Err(error) = state.commands.scope.store.audit(&entry).await {
        tracing::warn!(%error, %address, "a request without a valid token is not in the audit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_too_often_has_to_wait_and_holds_up_no_other() {
        let failures = Failures::default();
        let (one, other): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let now = Instant::now();
        for _ in 0..MOST_FAILURES {
            assert!(failures.may_try(one, now));
            failures.note(one, now);
        }
        assert!(!failures.may_try(one, now));
        assert!(failures.may_try(other, now));
        assert!(failures.may_try(one, now + WINDOW));
    }

    #[test]
    fn the_addresses_that_are_counted_are_limited() {
        let failures = Failures::default();
        let now = Instant::now();
        for n in 0..2 * MOST_ADDRESSES as u32 {
            failures.note(IpAddr::V4(n.into()), now);
        }
        assert_eq!(failures.0.lock().unwrap().len(), MOST_ADDRESSES + 1);
    }

    #[test]
    fn a_token_comes_in_the_header_for_it() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with("Bearer hfa_1").as_deref(), Some("hfa_1"));
        assert_eq!(with("bearer  hfa_1").as_deref(), Some("hfa_1"));
        assert_eq!(with("Basic hfa_1"), None);
        assert_eq!(with("hfa_1"), None);
    }
}
