//! The interface that takes commands: HTTP with JSON, below `/admin/v1`, on the control socket and on
//! `admin_listen`.
//!
//! A request that changes something becomes a row of `commands`; the answer is that row. Errors are
//! problems of RFC 9457. `routes.rs` has every path.

mod acts;
mod answer;
mod auth;
mod body;
mod commands;
mod events;
mod filters;
mod letters;
mod lists;
mod openapi;
mod problem;
mod repos;
mod routes;
mod sinks;
mod sources;
mod submit;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::auth::Failures;
pub(super) use self::auth::bearer;
pub use self::commands::GivenCommand;
use self::problem::Problem;
use super::http::{Limited, LimitedListener, Place};
use super::tokens::TokenFile;
use crate::command::{Caller, Commands};
use crate::telemetry::status::Status;

/// What every path begins with.
const PREFIX: &str = "/admin/v1";
/// The most bytes of a body. A request with its head has at most 64 KiB.
const MOST_BODY_BYTES: usize = 48 << 10;
/// How long an answer may take to begin. A connection has 10 s.
const DEADLINE: Duration = Duration::from_secs(8);
/// How many streams of events are open at once.
const MOST_STREAMS: usize = 8;

/// What the interface shows and changes.
#[derive(Clone)]
pub struct ApiState {
    pub commands: Arc<Commands>,
    /// `None` where only the control socket is served.
    pub tokens: Option<Arc<TokenFile>>,
    /// The names that are served besides IP addresses and `localhost`.
    pub allowed_hosts: Arc<[String]>,
    failures: Arc<Failures>,
    streams: Arc<Semaphore>,
    /// Ends the streams with the server.
    stop: CancellationToken,
}

impl ApiState {
    pub fn new(
        commands: Arc<Commands>,
        tokens: Option<Arc<TokenFile>>,
        allowed_hosts: Arc<[String]>,
    ) -> Self {
        Self {
            commands,
            tokens,
            allowed_hosts,
            failures: Arc::default(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            stop: CancellationToken::new(),
        }
    }

    /// The state of the worker.
    fn status(&self) -> Option<Status> {
        let live = self.commands.scope.live.as_ref();
        live.map(|live| live.context.status.snapshot())
    }
}

/// By which connection a request has come.
#[derive(Clone, Debug)]
pub(in crate::admin) struct Entrance {
    place: Arc<Place>,
    /// Who is at the other end, where the socket says so.
    caller: Option<Caller>,
    /// Where it comes from, on a network.
    address: Option<IpAddr>,
}

impl Entrance {
    pub(in crate::admin) fn of<S>(stream: &Limited<S>) -> Self {
        Self {
            place: stream.place().clone(),
            caller: stream.caller().cloned(),
            address: None,
        }
    }
}

impl Connected<IncomingStream<'_, LimitedListener>> for Entrance {
    fn connect_info(stream: IncomingStream<'_, LimitedListener>) -> Self {
        let of_stream: &Limited<TcpStream> = stream.io();
        Self {
            address: Some(stream.remote_addr().ip()),
            ..Self::of(of_stream)
        }
    }
}

/// Answers on `listener` until `stop`, then finishes the answers that have begun.
pub(in crate::admin) async fn serve<L>(
    listener: L,
    state: ApiState,
    stop: CancellationToken,
) -> io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
    for<'a> Entrance: Connected<IncomingStream<'a, L>>,
{
    let state = ApiState {
        stop: stop.clone(),
        ..state
    };
    let service = router(state).into_make_service_with_connect_info::<Entrance>();
    axum::serve(listener, service)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(state: ApiState) -> Router {
    let routes = routes::ROUTES.iter().fold(Router::new(), |router, route| {
        router.route(&format!("{PREFIX}{}", route.path), (route.handler)())
    });
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn(within_deadline))
        .layer(from_fn_with_state(state.clone(), auth::admit))
        .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
        .layer(map_response(with_headers))
        .with_state(state)
}

async fn document() -> Json<Value> {
    Json(openapi::openapi())
}

async fn within_deadline(request: Request, next: Next) -> Response {
    match timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let detail = "there was no answer in time; a command that was given is in the list";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).into_response()
        }
    }
}

async fn not_found() -> Problem {
    Problem::not_found("there is no such path; /admin/v1/openapi.json has all of them")
}

async fn not_allowed() -> Problem {
    let detail = "this path does not answer that method";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// No answer is kept or shown by a browser. A connection carries one request, so that its deadline is that
/// of its request.
async fn with_headers(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 6] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
