//! What is between a sink and the service that it writes to: it loses, delays and repeats requests.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::net::TcpListener;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It never arrives, and there is no answer.
    Lost,
    /// It is carried out, and its answer is lost.
    AnswerLost,
    /// It is refused before it arrives, with a status, the code and words of an error, and a
    /// `Retry-After`.
    Refused(u16, u32, &'static str, &'static str),
}

type Script = Box<dyn FnMut(&str) -> Fate + Send>;

/// A request that came.
#[derive(Clone)]
struct Seen {
    path: String,
    authorization: String,
    body: Bytes,
}

struct Inner {
    /// Where requests go: an origin without a slash at its end.
    target: String,
    script: Script,
    seen: Vec<Seen>,
}

/// A proxy on a loopback port of its own, which stays the same when the service restarts elsewhere.
pub struct Proxy {
    /// Host and port.
    pub address: String,
    inner: Arc<Mutex<Inner>>,
}

impl Proxy {
    /// A proxy that loses nothing, before the service at the origin `target`.
    pub async fn start(target: &str) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            target: target.trim_end_matches('/').to_owned(),
            script: Box::new(|_| Fate::Answered),
            seen: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .fallback(pass)
            .layer(DefaultBodyLimit::disable())
            .with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, inner }
    }

    /// The service is elsewhere from now on.
    pub fn lead_to(&self, target: &str) {
        target
            .trim_end_matches('/')
            .clone_into(&mut self.inner.lock().unwrap().target);
    }

    /// Sets what becomes of requests, by their bodies.
    pub fn script(&self, script: impl FnMut(&str) -> Fate + Send + 'static) {
        self.inner.lock().unwrap().script = Box::new(script);
    }

    /// How many requests came. Repetitions are not among them.
    pub fn count(&self) -> usize {
        self.inner.lock().unwrap().seen.len()
    }

    /// The paths of the requests.
    pub fn paths(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.seen.iter().map(|seen| seen.path.clone()).collect()
    }

    /// Sends a request that came, whatever became of it, once more or for the first time: as a network
    /// that held it back would. Returns the answer.
    pub async fn repeat(&self, number: usize) -> String {
        let (target, seen) = {
            let inner = self.inner.lock().unwrap();
            (inner.target.clone(), inner.seen[number].clone())
        };
        let (_, text) = forward(&target, seen).await;
        String::from_utf8(text.to_vec()).unwrap()
    }
}

async fn pass(
    State(inner): State<Arc<Mutex<Inner>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION);
    let authorization = authorization.map_or("", |value| value.to_str().unwrap());
    let seen = Seen {
        path: uri.path().to_owned(),
        authorization: authorization.to_owned(),
        body,
    };
    let (target, fate) = {
        let mut inner = inner.lock().unwrap();
        inner.seen.push(seen.clone());
        let fate = (inner.script)(std::str::from_utf8(&seen.body).unwrap());
        (inner.target.clone(), fate)
    };
    match fate {
        Fate::Answered => forward(&target, seen).await.into_response(),
        Fate::AnswerLost => {
            forward(&target, seen).await;
            broken()
        }
        Fate::Lost => broken(),
        Fate::Refused(status, code, words, retry_after) => {
            let answer = json!({
                "success": false,
                "errors": [{ "code": code, "message": words }],
                "messages": [],
                "result": null,
            });
            let status = StatusCode::from_u16(status).unwrap();
            let headers = [(header::RETRY_AFTER, retry_after)];
            (status, headers, answer.to_string()).into_response()
        }
    }
}

/// The connection ends amid the answer.
fn broken() -> Response {
    let cut = stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    Response::new(Body::from_stream(cut))
}

/// A service that is down is a bad gateway.
async fn forward(target: &str, seen: Seen) -> (StatusCode, Bytes) {
    let answer = post(
        &format!("{target}{}", seen.path),
        &seen.authorization,
        seen.body,
    )
    .await;
    answer.unwrap_or((StatusCode::BAD_GATEWAY, Bytes::new()))
}

/// Posts to a service, past the proxy.
pub(crate) async fn post(
    url: &str,
    authorization: &str,
    body: impl Into<reqwest::Body>,
) -> Result<(StatusCode, Bytes), reqwest::Error> {
    let request = reqwest::Client::new()
        .post(url)
        .header("authorization", authorization)
        .body(body);
    let answer = request.send().await?;
    Ok((answer.status(), answer.bytes().await?))
}
