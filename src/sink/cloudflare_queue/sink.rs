//! Sends each change to a queue.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::value::RawValue;

use super::options::QueueOptions;
use super::{METADATA, MOST_MESSAGE};
use crate::model::{Change, Feed};
use crate::sink::cloudflare::{Client, Failure};
use crate::sink::item::{Body, item};
use crate::sink::{Delivery, Sink, SinkError};
use crate::store::PieceLimit;
use crate::store::change_feed::ChangeFeed;

/// What a queue takes in one request: messages, and bytes.
const MOST_MESSAGES: usize = 100;
const MOST_BYTES: usize = 256_000;
/// A task with a record has at most so many bytes. A larger one goes without it: the consumer asks the
/// account's host.
const MOST_WITH_RECORD: usize = 100_000;

/// What one delivery has at most. The bytes of its messages are others than those of its rows, so it may be
/// two requests.
const LIMIT: PieceLimit = PieceLimit {
    rows: MOST_MESSAGES as u64,
    bytes: MOST_BYTES as u64,
};

/// Errors of which a repetition changes nothing: a message is too large, a batch is too large, a batch has
/// too many messages.
const REFUSALS: [u32; 3] = [10204, 10205, 10206];
/// The request as a whole is too large.
const TOO_LARGE: u16 = 413;

/// A queue that follows the change feed.
pub struct QueueSink {
    client: Client,
    target: String,
    name: Arc<str>,
    /// Keeps the position.
    feed: Arc<dyn ChangeFeed>,
}

#[derive(Serialize)]
struct Batch<'a> {
    messages: &'a [Message],
}

/// JSON goes as text: a queue hands out what came as JSON in base64.
#[derive(Serialize)]
struct Message {
    body: String,
    content_type: &'static str,
}

impl QueueSink {
    pub fn new(options: QueueOptions, name: Arc<str>, feed: Arc<dyn ChangeFeed>) -> Self {
        Self {
            client: Client::new(options.push, options.access),
            target: options.target,
            name,
            feed,
        }
    }

    async fn take(&self, feed: &Feed) -> Result<u64, SinkError> {
        let position = self.feed.sink_position(&self.name, &self.target).await;
        let position = position.map_err(SinkError::unavailable)?;
        Ok(feed.begin(position.as_ref()))
    }

    async fn send(&mut self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let Some(position) = delivery.feed.position(delivery.to) else {
            return Ok(());
        };
        let messages = delivery.changes.iter();
        let messages = messages.map(|change| message(change, delivery.feed));
        let messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
        for batch in batches(&messages) {
            let body = serde_json::to_vec(&Batch { messages: batch });
            let body = body.map_err(SinkError::unavailable)?;
            let sent = self.client.post::<Box<RawValue>>(body.into()).await;
            sent.map_err(sink_error)?;
        }
        let kept = self
            .feed
            .keep_sink_position(&self.name, &self.target, &position);
        kept.await.map_err(SinkError::unavailable)
    }
}

fn message(change: &Change, feed: &Feed) -> Result<Message, SinkError> {
    let text = |body| {
        let item = item(change, &feed.id, body);
        item.map_err(|error| SinkError::Refused(error.to_string()))
    };
    let mut body = text(Body::With)?;
    if body.len() > MOST_WITH_RECORD {
        body = text(Body::Omitted)?;
    }
    match body.len() + METADATA > MOST_MESSAGE {
        true => Err(SinkError::Refused(format!(
            "a task of {} bytes is larger than a message may be",
            body.len()
        ))),
        false => Ok(Message {
            body,
            content_type: "text",
        }),
    }
}

/// Cuts `messages` into requests.
fn batches(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += message.body.len() + METADATA;
            bytes <= MOST_BYTES
        };
        let count = rest.iter().take(MOST_MESSAGES).take_while(fits).count();
        let (batch, later) = rest.split_at(count);
        rest = later;
        Some(batch).filter(|batch| !batch.is_empty())
    })
}

fn sink_error(failure: Failure) -> SinkError {
    let is_refusal = REFUSALS.iter().any(|code| failure.codes.contains(code));
    match is_refusal || failure.status == Some(TOO_LARGE) {
        true => SinkError::Refused(failure.to_string()),
        // Overloaded (10250), full (10251), the end of the free plan's day (10253), throttled, and what is
        // not known.
        false => failure.unavailable(),
    }
}

impl Sink for QueueSink {
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>> {
        Box::pin(self.take(feed))
    }

    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.send(delivery))
    }

    fn limit(&self) -> PieceLimit {
        LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_within_the_limits_and_leave_nothing_out() {
        let message = |bytes: usize| Message {
            body: "x".repeat(bytes),
            content_type: "text",
        };
        let mut messages: Vec<_> = (0..250).map(|n| message(n % 7)).collect();
        messages.extend((0..9).map(|_| message(MOST_WITH_RECORD)));
        let batches: Vec<_> = batches(&messages).collect();
        for batch in &batches {
            let bytes = batch.iter().map(|message| message.body.len() + METADATA);
            assert!(batch.len() <= MOST_MESSAGES && bytes.sum::<usize>() <= MOST_BYTES);
        }
        let count: usize = batches.iter().map(|batch| batch.len()).sum();
        assert_eq!(count, messages.len());
        assert_eq!(super::batches(&[]).count(), 0);
    }

    #[test]
    fn each_error_of_a_queue_has_a_class() {
        let class = |status, code| {
            let failure = Failure {
                status: Some(status),
                retry_after: None,
                codes: vec![code],
                words: String::new(),
            };
            matches!(sink_error(failure), SinkError::Refused(_))
        };
        for code in [10204, 10205, 10206] {
            assert!(class(400, code), "{code}");
        }
        assert!(class(413, 0));
        for (status, code) in [
            (429, 10250),
            (503, 10250),
            (400, 10251),
            (403, 10253),
            (401, 10000),
            (429, 971),
            (404, 11000),
            (500, 0),
        ] {
            assert!(!class(status, code), "{status} {code}");
        }
    }
}
