//! An HTTP client that posts to a server which the operator has named.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::net::http_client::{causes, retry_after};
use crate::net::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The bytes that are read of an answer. Only its status counts; its words are for the operator.
const MOST_ANSWER: usize = 16 << 10;
/// The characters of an answer in an error message.
const MOST_SHOWN: usize = 200;

/// Posts to the operator's servers. Redirects are not followed.
#[derive(Clone, Debug)]
pub struct Poster(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The server's `Retry-After`, capped.
    pub retry_after: Option<Duration>,
    /// Empty if it was longer than the limit.
    pub body: Bytes,
}

/// Why a post was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    #[error("the server answered with HTTP status {status}: {words}")]
    Status {
        status: u16,
        /// The server's `Retry-After`, capped.
        retry_after: Option<Duration>,
        /// The beginning of the answer, without control characters.
        words: String,
    },

    #[error("no HTTP answer: {0}")]
    Transport(String),
}

impl Poster {
    /// # Errors
    /// If the crypto provider supports no TLS version that rustls supports.
    pub fn new() -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self(client))
    }

    /// Posts `body`. It has no deadline.
    ///
    /// # Errors
    /// Every status except 2xx is an error.
    pub async fn post(
        &self,
        url: &Url,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<(), PostError> {
        let answer = self.ask(url, headers, body, MOST_ANSWER).await?;
        match answer.status {
            200..300 => Ok(()),
            status => Err(PostError::Status {
                status,
                retry_after: answer.retry_after,
                words: answer.words(),
            }),
        }
    }

    /// Posts `body`, and returns the answer of any status with at most `most` bytes. It has no deadline.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask(
        &self,
        url: &Url,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
        most: usize,
    ) -> Result<Answer, PostError> {
        let transport = |error: &(dyn Error + 'static)| PostError::Transport(causes(error));
        let mut request = Request::post(url.as_str())
            .header(header::USER_AGENT, crate::net::http_client::USER_AGENT)
            .body(Full::new(body))
            .map_err(|error| transport(&error))?;
        request.headers_mut().extend(headers);
        let response = self.0.request(request).await;
        let response = response.map_err(|error| transport(&error))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        let body = Limited::new(response.into_body(), most).collect().await;
        Ok(Answer {
            status,
            retry_after,
            body: body.map(|body| body.to_bytes()).unwrap_or_default(),
        })
    }
}

impl Answer {
    /// The beginning of the answer, without control characters.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let shown = text.chars().filter(|character| !character.is_control());
        shown.take(MOST_SHOWN).collect()
    }
}

impl PostError {
    /// Whether the server would refuse the same body again. What concerns the request as a whole, such as
    /// the address and the signature, is the operator's to mend, and no fault of a change.
    pub fn is_refusal(&self) -> bool {
        let refusals = [
            StatusCode::BAD_REQUEST,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ];
        matches!(self, Self::Status { status, .. } if refusals.iter().any(|code| code == status))
    }
}
