//! A webhook: each batch of changes is posted as JSON, in their order. An answer of 2xx says that it was
//! taken.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::header::{self, HeaderName, HeaderValue};
use jiff::Timestamp;
use ring::hmac;
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use super::item::{Body, item};
use super::options::{HIDDEN, redacted};
use super::secret::Secret;
use super::{Delivery, Sink, SinkError};
use crate::model::Feed;
use crate::net::http_poster::{PostError, Poster};
use crate::store::PieceLimit;
use crate::store::change_feed::ChangeFeed;

/// What one request has at most, about. Many servers take no body of more than 1 MiB.
const LIMIT: PieceLimit = PieceLimit {
    rows: 100,
    bytes: 900_000,
};
/// The deadline of a request. The step of which it is a part has 25 s, and the position is kept behind it.
const DEADLINE: Duration = Duration::from_secs(20);

/// A webhook has no identity: the name of the sink says whether it is the same.
const TARGET: &str = "";

const SIGNATURE: HeaderName = HeaderName::from_static("huddle-signature");
const TIMESTAMP: HeaderName = HeaderName::from_static("huddle-timestamp");
const POSITION: HeaderName = HeaderName::from_static("huddle-position");

/// Where a webhook is.
#[derive(Clone, PartialEq)]
pub struct WebhookOptions {
    url: Url,
    /// The key of the signature.
    secret: Option<Secret>,
    shown: String,
}

impl WebhookOptions {
    /// Reads `url`, whose scheme is `webhook+https` or `webhook+http`. Its parameters `secret_file` and
    /// `secret_env` name the key of the signature; the others are sent.
    ///
    /// # Errors
    /// The reason, without anything secret in it.
    pub(super) fn parse(url: &Url) -> Result<Self, String> {
        let text = url.as_str().strip_prefix("webhook+");
        let text = text.ok_or("the scheme is not webhook+https or webhook+http")?;
        let mut plain = Url::parse(text).map_err(|error| error.to_string())?;
        if !plain.username().is_empty() || plain.password().is_some() {
            return Err(
                "a user name or password in the URL is not sent; use secret_file".to_owned(),
            );
        }
        let mut secret = None;
        let mut rest = Vec::new();
        for (name, value) in url.query_pairs() {
            match Secret::of("secret", &name, &value) {
                Some(named) => secret = Some(named),
                None => rest.push((name.into_owned(), value.into_owned())),
            }
        }
        match rest.is_empty() {
            true => plain.set_query(None),
            false => {
                plain.query_pairs_mut().clear().extend_pairs(rest);
            }
        }
        // Many webhooks are known by their URL alone.
        let mut shown = url.clone();
        if shown.path() != "/" {
            shown.set_path(HIDDEN);
        }
        Ok(Self {
            shown: redacted(&shown, |name| !matches!(name, "secret_file" | "secret_env")),
            url: plain,
            secret,
        })
    }
}

impl fmt::Display for WebhookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A webhook that follows the change feed.
pub struct WebhookSink {
    options: WebhookOptions,
    name: Arc<str>,
    /// Keeps the position.
    feed: Arc<dyn ChangeFeed>,
    poster: Option<Poster>,
}

impl WebhookSink {
    pub fn new(options: WebhookOptions, name: Arc<str>, feed: Arc<dyn ChangeFeed>) -> Self {
        Self {
            options,
            name,
            feed,
            poster: None,
        }
    }

    async fn take(&self, feed: &Feed) -> Result<u64, SinkError> {
        let position = self.feed.sink_position(&self.name, TARGET).await;
        let position = position.map_err(SinkError::unavailable)?;
        Ok(feed.begin(position.as_ref()))
    }

    async fn post(&mut self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let Some(position) = delivery.feed.position(delivery.to) else {
            return Ok(());
        };
        if !delivery.changes.is_empty() {
            let text = position.to_string();
            let body = body(delivery, &self.name, &text)?;
            let headers = self.headers(&body, &text)?;
            let poster = match &self.poster {
                Some(poster) => poster,
                None => self
                    .poster
                    .insert(Poster::new().map_err(SinkError::unavailable)?),
            };
            let posted = timeout(DEADLINE, poster.post(&self.options.url, headers, body)).await;
            let posted = posted.unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", DEADLINE.as_secs());
                Err(PostError::Transport(reason))
            });
            posted.map_err(sink_error)?;
        }
        let kept = self.feed.keep_sink_position(&self.name, TARGET, &position);
        kept.await.map_err(SinkError::unavailable)
    }

    fn headers(
        &self,
        body: &[u8],
        position: &str,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, SinkError> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(SinkError::unavailable);
        let timestamp = Timestamp::now().as_second().to_string();
        let mut headers = vec![
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            (TIMESTAMP, value(&timestamp)?),
            (POSITION, value(position)?),
        ];
        if let Some(secret) = &self.options.secret {
            let signature = sign(&secret.read()?, &timestamp, body);
            headers.push((SIGNATURE, value(&signature)?));
        }
        Ok(headers)
    }
}

/// `sha256=` and the HMAC of the timestamp, a dot and the body, in hexadecimal digits.
fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    let tag = data_encoding::HEXLOWER.encode(context.sign().as_ref());
    format!("sha256={tag}")
}

fn body(delivery: Delivery<'_>, sink: &str, position: &str) -> Result<Bytes, SinkError> {
    let items = delivery
        .changes
        .iter()
        .map(|change| item(change, &delivery.feed.id, Body::With));
    let items: Vec<String> = items
        .collect::<Result<_, _>>()
        .map_err(|error| SinkError::Refused(error.to_string()))?;
    let text = format!(
        "{{\"sink\":{},\"position\":{},\"tasks\":[{}]}}",
        json!(sink),
        json!(position),
        items.join(",")
    );
    Ok(text.into())
}

fn sink_error(error: PostError) -> SinkError {
    if error.is_refusal() {
        return SinkError::Refused(error.to_string());
    }
    let retry_after = match &error {
        PostError::Status { retry_after, .. } => *retry_after,
        PostError::Transport(_) => None,
    };
    SinkError::Unavailable {
        reason: error.to_string(),
        retry_after,
    }
}

impl Sink for WebhookSink {
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>> {
        Box::pin(self.take(feed))
    }

    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.post(delivery))
    }

    fn limit(&self) -> PieceLimit {
        LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<WebhookOptions, String> {
        WebhookOptions::parse(&Url::parse(url).unwrap())
    }

    #[test]
    fn the_url_is_that_of_the_server_and_the_secret_is_no_part_of_it() {
        let options = parse("webhook+https://a.example/hook?secret_file=/s&x=1").unwrap();
        assert_eq!(options.url.as_str(), "https://a.example/hook?x=1");
        assert_eq!(options.secret, Some(Secret::File("/s".into())));
        assert!(parse("webhook+http://ann:secret@a.example/").is_err());
    }

    /// The value is that of `printf '7.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn the_signature_is_over_the_timestamp_and_the_body() {
        assert_eq!(
            sign("key", "7", b"{}"),
            "sha256=77bc83bd1f40422311e47918b203449aecf84b02c1568bb1b570ac2a474cc2d8"
        );
        assert_ne!(sign("key", "8", b"{}"), sign("key", "7", b"{}"));
    }
}
