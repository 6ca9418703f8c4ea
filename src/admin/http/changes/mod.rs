//! `GET /changes`: the change feed over HTTP, in the manner of CouchDB's `_changes`.
//!
//! It is off unless a token is configured, and it only reads. A reader keeps `last_seq` (or the id of the
//! last event) and names it as `since` the next time.

mod page;
mod query;
mod stream;

use std::fmt;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use self::page::Reader;
use self::query::{Kind, Query};
use super::HttpState;
use super::listener::PlaceOf;
use crate::admin::api::bearer;
use crate::store::StoreError;
use crate::store::change_feed::ChangeFeed;

/// Answers at a time, so that they leave places for probes, and memory.
const MOST_STREAMS: usize = 64;

/// The feed, and the token that a request must have.
#[derive(Clone)]
pub struct ChangesApi {
    feed: Arc<dyn ChangeFeed>,
    /// SHA-256, so that a comparison tells nothing of the token by its time.
    token: [u8; 32],
    streams: Arc<Semaphore>,
}

impl ChangesApi {
    pub fn new(feed: Arc<dyn ChangeFeed>, token: &str) -> Self {
        Self {
            feed,
            token: digest(token),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|token| digest(token) == self.token)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl fmt::Debug for ChangesApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangesApi")
    }
}

/// Answers `GET /changes`.
pub(super) async fn changes(
    ConnectInfo(PlaceOf(place)): ConnectInfo<PlaceOf>,
    State(state): State<HttpState>,
    request: Request,
) -> Response {
    let Some(api) = state.changes else {
        return super::not_found().await.into_response();
    };
    if !api.admits(request.headers()) {
        let mut refused = refuse(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
        let scheme = header::HeaderValue::from_static("Bearer");
        refused
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
        return refused;
    }
    let query = match Query::of(&request) {
        Ok(query) => query,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    let kind = query.kind;
    let Ok(slot) = api.streams.try_acquire_owned() else {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many answers are read or wait for changes",
        );
    };
    let mut reader = match Reader::open(api.feed.clone(), query).await {
        Ok(reader) => reader,
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    if kind == Kind::Normal {
        return match one_page(&mut reader).await {
            Ok(page) => answer("application/json", Body::from(page)),
            Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        };
    }
    place.begin_stream();
    match kind {
        Kind::EventSource => answer("text/event-stream", stream::events(reader, slot)),
        Kind::LongPoll | Kind::Normal => answer("application/json", stream::poll(reader, slot)),
    }
}

async fn one_page(reader: &mut Reader) -> Result<String, StoreError> {
    let page = reader.next_page().await?;
    reader.answer(&page).await
}

fn answer(content_type: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
}

fn refuse(code: StatusCode, error: &str) -> Response {
    (code, Json(json!({ "error": error }))).into_response()
}
