//! Failures of HTTP answers, planned by tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::{StreamExt, stream};
use tokio::sync::watch;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    DidDocument,
    GetLatestCommit,
    GetRepo,
    GetRepoStatus,
    ListRepos,
    ListReposByCollection,
}

/// The failure of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It has this body instead.
    Body(Bytes),
    /// It is computed at once, but held back until the test releases it.
    Held,
    /// It is this many bytes longer than it should be.
    Oversized(usize),
    /// It redirects to the same URL.
    RedirectLoop,
    /// It is 429 with this many seconds in `Retry-After`.
    RetryAfter(u32),
    /// It comes after this delay.
    Slow(Duration),
    /// It is only this status.
    Status(u16),
    /// The connection ends in the middle of it.
    Truncated,
    /// It is a page of HTML.
    WrongType,
}

/// The planned mishaps of one server. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mishaps {
    planned: Arc<Mutex<BTreeMap<Endpoint, PlannedMishap>>>,
    /// Whether answers that are held back may be sent. The number of receivers is the number of
    /// held answers.
    is_released: watch::Sender<bool>,
}

#[derive(Clone, Debug, Default)]
struct PlannedMishap {
    /// The next mishap, and the number of answers that it still applies to.
    mishap: Option<(Mishap, u64)>,
    requests: u64,
}

impl Endpoint {
    fn of(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/xrpc/com.atproto.sync.") {
            None if path.starts_with("/did:") => Self::DidDocument,
            Some("getLatestCommit") => Self::GetLatestCommit,
            Some("getRepo") => Self::GetRepo,
            Some("getRepoStatus") => Self::GetRepoStatus,
            Some("listRepos") => Self::ListRepos,
            Some("listReposByCollection") => Self::ListReposByCollection,
            _ => return None,
        })
    }
}

impl Mishaps {
    pub(crate) fn plan(&self, endpoint: Endpoint, mishap: Mishap, times: u64) {
        self.is_released.send_replace(false);
        self.lock().entry(endpoint).or_default().mishap = Some((mishap, times));
    }

    pub(crate) fn end(&self, endpoint: Endpoint) {
        self.lock().entry(endpoint).or_default().mishap = None;
    }

    pub(crate) fn requests(&self, endpoint: Endpoint) -> u64 {
        self.lock().entry(endpoint).or_default().requests
    }

    pub(crate) fn held(&self) -> usize {
        self.is_released.receiver_count()
    }

    pub(crate) fn release(&self) {
        self.is_released.send_replace(true);
    }

    /// Counts a request, and returns its mishap if one is planned.
    fn next(&self, endpoint: Endpoint) -> Option<Mishap> {
        let mut planned = self.lock();
        let plan = planned.entry(endpoint).or_default();
        plan.requests += 1;
        let (mishap, times) = plan.mishap.take()?;
        let left = times.saturating_sub(1);
        plan.mishap = (left > 0).then(|| (mishap.clone(), left));
        Some(mishap)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Endpoint, PlannedMishap>> {
        self.planned.lock().expect("nothing panics with the lock")
    }
}

/// The middleware that applies the mishaps to all answers.
pub(crate) async fn apply_mishap(
    State(mishaps): State<Mishaps>,
    request: Request,
    next: Next,
) -> Response {
    let mishap = Endpoint::of(request.uri().path()).and_then(|endpoint| mishaps.next(endpoint));
    let here = request.uri().to_string();
    match mishap {
        None => next.run(request).await,
        Some(Mishap::Body(body)) => {
            let (mut parts, _) = next.run(request).await.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            parts.status = StatusCode::OK;
            Response::from_parts(parts, body.into())
        }
        Some(Mishap::Held) => {
            let answer = next.run(request).await;
            let mut is_released = mishaps.is_released.subscribe();
            // The server holds the sender.
            is_released.wait_for(|is_released| *is_released).await.ok();
            answer
        }
        Some(Mishap::Oversized(more)) => oversized(next.run(request).await, more).await,
        Some(Mishap::RedirectLoop) => Redirect::temporary(&here).into_response(),
        Some(Mishap::RetryAfter(seconds)) => {
            let retry_after = [(header::RETRY_AFTER, seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, retry_after).into_response()
        }
        Some(Mishap::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            next.run(request).await
        }
        Some(Mishap::Status(status)) => StatusCode::from_u16(status)
            .expect("a test names a status that there is")
            .into_response(),
        Some(Mishap::Truncated) => truncated(next.run(request).await).await,
        Some(Mishap::WrongType) => {
            let html = [(header::CONTENT_TYPE, "text/html")];
            (html, "<!doctype html><title>Hello</title>").into_response()
        }
    }
}

/// The answer with zeros after it, and without its length.
async fn oversized(answer: Response, more: usize) -> Response {
    const PIECE: usize = 64 << 10;
    let (mut parts, body) = taken_apart(answer).await;
    parts.headers.remove(header::CONTENT_LENGTH);
    let zeros = (0..more)
        .step_by(PIECE)
        .map(move |sent| Bytes::from(vec![0; PIECE.min(more - sent)]));
    let pieces = std::iter::once(body).chain(zeros).map(Ok::<_, io::Error>);
    Response::from_parts(parts, Body::from_stream(stream::iter(pieces)))
}

/// The first half of the answer, with the length of the whole.
async fn truncated(answer: Response) -> Response {
    let (mut parts, body) = taken_apart(answer).await;
    let length = HeaderValue::from(body.len());
    parts.headers.insert(header::CONTENT_LENGTH, length);
    let half = body.slice(..body.len() / 2);
    let end = async {
        // The first half is sent before the error ends the connection.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    };
    let pieces = stream::iter([Ok(half)]).chain(stream::once(end));
    Response::from_parts(parts, Body::from_stream(pieces))
}

async fn taken_apart(answer: Response) -> (axum::http::response::Parts, Bytes) {
    let (parts, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await;
    (parts, body.expect("the server's own answers are whole"))
}
