//! The operator's endpoints. All of them are read-only.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | Prometheus text, see [`metrics`](crate::telemetry::metrics) |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 or 503, and the reasons as JSON, see [`health`](crate::telemetry::health) |
//! | `/changes` | the change feed, if a token is configured: see `changes` |
//! | `/status` | the [`Status`](crate::telemetry::status::Status) as JSON, with each source's lag |

mod changes;
mod host;
mod listener;
mod origin;
mod places;
mod report;

use std::io;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::health::{Thresholds, readiness};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusBoard;
pub use changes::ChangesApi;

use listener::PlaceOf;
use report::Report;

pub(super) use self::host::refusal as refused_host;
pub(super) use self::listener::{Limited, LimitedListener};
pub(super) use self::origin::is_foreign;
pub(super) use self::places::{Place, Places};

/// The data of the answers.
#[derive(Clone, Debug)]
pub struct HttpState {
    pub metrics: Metrics,
    pub prometheus: PrometheusHandle,
    pub status: StatusBoard,
    pub thresholds: Thresholds,
    /// The names that are served besides IP addresses and `localhost`.
    pub allowed_hosts: Arc<[String]>,
    /// `None`: there is no `/changes`.
    pub changes: Option<ChangesApi>,
}

/// Answers on `listener` until `stop`, then finishes the answers that have begun.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    stop: CancellationToken,
) -> io::Result<()> {
    let service = router(state).into_make_service_with_connect_info::<PlaceOf>();
    axum::serve(LimitedListener::new(listener), service)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(state: HttpState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/changes", get(changes::changes))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(state.clone(), admit))
        // One request a connection, so that the deadline of a connection is that of its request.
        .layer(map_response(close))
        .with_state(state)
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    let status = state.status.snapshot();
    state.metrics.publish(&status, Timestamp::now());
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], state.prometheus.render())
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<HttpState>) -> impl IntoResponse {
    let status = state.status.snapshot();
    let readiness = readiness(&status, Timestamp::now(), &state.thresholds);
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness))
}

async fn status(State(state): State<HttpState>) -> Response {
    let status = state.status.snapshot();
    Json(Report::new(&status, Timestamp::now())).into_response()
}

/// Notes that the request is complete, and refuses one for a name that is not ours.
async fn admit(
    ConnectInfo(PlaceOf(place)): ConnectInfo<PlaceOf>,
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    place.complete_request();
    match host::refusal(&request, &state.allowed_hosts) {
        None if is_foreign(request.headers()) => {
            let error = "a page of another origin may not make requests";
            (StatusCode::FORBIDDEN, Json(json!({ "error": error }))).into_response()
        }
        None => next.run(request).await,
        Some(code) => {
            let error = "the Host is no IP address, not localhost, and not in allowed_hosts";
            (code, Json(json!({ "error": error }))).into_response()
        }
    }
}

async fn not_found() -> impl IntoResponse {
    let paths = ["/metrics", "/healthz", "/readyz", "/status"];
    let body = json!({ "error": "no such path", "paths": paths });
    (StatusCode::NOT_FOUND, Json(body))
}

async fn not_allowed() -> impl IntoResponse {
    let body = json!({ "error": "only GET and HEAD are answered" });
    (StatusCode::METHOD_NOT_ALLOWED, Json(body))
}

async fn close(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}
