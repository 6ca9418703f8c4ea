//! A NATS sink beside a bare client that publishes the same messages to a stream of the same kind.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream;
use bytes::Bytes;
use huddle_firehose::sink::item::{Body, item};
use test_support::nats::Queue;
use tokio::time::Instant;

use crate::round::Round;
use crate::{runtime, sink_feed};

/// Messages whose acks are waited for at the same time.
const IN_FLIGHT: usize = 2_000;

/// A message that is ready to be sent.
struct Message {
    id: String,
    body: Bytes,
}

pub(crate) fn measure() -> Round {
    let filled = sink_feed::filled();
    let message = |change| Message {
        id: String::new(),
        body: item(change, &filled.feed.id, Body::With).unwrap().into(),
    };
    let mut messages: Vec<Message> = filled.changes.iter().map(message).collect();
    for (message, change) in messages.iter_mut().zip(&filled.changes) {
        let (feed, epoch) = (&filled.feed.id, &change.epoch);
        message.id = format!("{feed}:{epoch}:{}", change.number);
    }
    runtime().block_on(async {
        let (queue, other) = (Queue::new().await.unwrap(), Queue::new().await.unwrap());
        let worker = sink_feed::deliver(&queue.url().replace("64MiB", "1GiB")).await;
        assert_eq!(queue.count().await, messages.len() as u64);
        let info = queue.info().await.unwrap();
        // Only one of the two holds what was published, so that both have the same disk.
        queue.purge().await;
        let bare = publish(&other, info.config, &messages).await;
        assert_eq!(other.count().await, messages.len() as u64);
        other.purge().await;
        Round {
            events: messages.len() as u64,
            bare: Some(bare),
            worker,
        }
    })
}

/// The time to publish `messages`, whose acks are waited for while the next ones are sent.
async fn publish(queue: &Queue, config: stream::Config, messages: &[Message]) -> Duration {
    let client = async_nats::connect(&queue.server).await.unwrap();
    let context = ContextBuilder::new().build(client);
    let subjects = (0..4).map(|partition| format!("{}.{partition}", queue.stream));
    let subjects: Vec<String> = subjects.collect();
    let config = stream::Config {
        name: queue.stream.clone(),
        subjects: subjects.clone(),
        ..config
    };
    context.create_stream(config).await.unwrap();
    let mut acks: VecDeque<PublishAckFuture> = VecDeque::new();
    let started = Instant::now();
    for (number, Message { id, body }) in messages.iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.as_str());
        headers.insert("Nats-Expected-Stream", queue.stream.as_str());
        let message = PublishMessage::build()
            .payload(body.clone())
            .headers(headers);
        let subject = subjects[number % subjects.len()].clone();
        acks.push_back(context.send_publish(subject, message).await.unwrap());
        if acks.len() >= IN_FLIGHT
            && let Some(first) = acks.pop_front()
        {
            first.await.unwrap();
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
    started.elapsed()
}
