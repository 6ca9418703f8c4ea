//! A partition that this consumer has: what it takes, and what becomes of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind, kv};
use async_nats::{HeaderMap, HeaderName, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use tokio::time::{Instant, interval};

use super::body::{self, Bodies};
use super::connection::{Connection, unavailable};
use super::feeds;
use super::kept_lease::{KeptLease, RENEW_INTERVAL};
use super::lease::{Hand, LEASE};
use super::members::Slot;
use crate::model::{Feed, RandomId};
use crate::sink::SinkError;
use crate::sink::queue::Taken;

/// Messages that are taken at once.
pub(super) const BATCH: usize = 100;
/// The bytes that are handed out at once, and taken from the server at once. A single message may have
/// more.
const BATCH_BYTES: usize = 4 << 20;
/// How long it is waited for messages.
const PATIENCE: Duration = Duration::from_millis(700);

/// Headers of a dead letter, beside those of the task.
const ERROR: &str = "Huddle-Error";
const ATTEMPTS: &str = "Huddle-Attempts";

/// A partition that this consumer has.
pub(super) struct Held {
    connection: Connection,
    lease: KeptLease,
    consumer: PullConsumer,
    bodies: Bodies,
    /// The bucket of the epochs of feeds.
    feeds: kv::Store,
    /// What came from the server, and was not handed out yet.
    waiting: VecDeque<(u64, Message)>,
    /// What has its body, and is handed out next.
    ready: Vec<Taken>,
    /// The messages of what is ready or was handed out.
    handed_out: BTreeMap<u64, Message>,
    lengthened_at: Instant,
    _slot: Slot,
}

/// A message of the stream.
struct Message {
    reply: Subject,
    headers: HeaderMap,
    payload: Bytes,
}

impl Held {
    pub(super) fn new(
        connection: Connection,
        lease: KeptLease,
        consumer: PullConsumer,
        bodies: Bodies,
        feeds: kv::Store,
        slot: Slot,
    ) -> Self {
        Self {
            connection,
            lease,
            consumer,
            bodies,
            feeds,
            waiting: VecDeque::new(),
            ready: Vec::new(),
            handed_out: BTreeMap::new(),
            lengthened_at: Instant::now(),
            _slot: slot,
        }
    }

    /// What is known of feed `id`; `None` if nothing is.
    pub(super) async fn feed(&self, id: &RandomId) -> Result<Option<Feed>, SinkError> {
        feeds::read(&self.connection, &self.feeds, id).await
    }

    /// Gives the partition back.
    pub(super) async fn give_back(self) {
        self.lease.give_back().await;
    }

    /// Hands out messages, or takes some that wait, or reads their bodies. One thing at a time, so that no
    /// step of a consumer waits for the server and for its transaction.
    pub(super) async fn take(&mut self) -> Result<Vec<Taken>, SinkError> {
        if !self.ready.is_empty() {
            return Ok(std::mem::take(&mut self.ready));
        }
        self.lease.renew_if_due().await?;
        match self.waiting.is_empty() {
            true => self.pull().await?,
            false => self.read_bodies().await?,
        }
        Ok(Vec::new())
    }

    /// Whether nothing is in hand.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.ready.is_empty() && self.handed_out.is_empty()
    }

    async fn pull(&mut self) -> Result<(), SinkError> {
        let most_bytes = BATCH_BYTES.max(2 * self.connection.client.max_payload());
        self.pull_some(BATCH, most_bytes, Duration::ZERO).await?;
        if self.waiting.is_empty() {
            self.pull_some(1, most_bytes, PATIENCE).await?;
            if !self.waiting.is_empty() {
                self.pull_some(BATCH - 1, most_bytes, Duration::ZERO)
                    .await?;
            }
        }
        Ok(())
    }

    async fn pull_some(
        &mut self,
        most: usize,
        most_bytes: usize,
        patience: Duration,
    ) -> Result<(), SinkError> {
        let failed = |error: &dyn std::fmt::Display| unavailable("cannot take messages", error);
        let pulling = async {
            let batch = match patience.is_zero() {
                true => {
                    let fetch = self.consumer.fetch().max_messages(most);
                    fetch.max_bytes(most_bytes).messages().await
                }
                false => {
                    let batch = self.consumer.batch().max_messages(most);
                    batch.expires(patience).messages().await
                }
            };
            let mut batch = batch.map_err(|error| failed(&error))?;
            let mut messages = Vec::new();
            while let Some(message) = batch.next().await {
                match message {
                    Ok(message) => messages.push(numbered(message)?),
                    // The server ends a batch so where the next message would be too much.
                    Err(_) if !messages.is_empty() => break,
                    Err(error) => return Err(failed(&error)),
                }
            }
            Ok(messages)
        };
        let messages = self.connection.run(pulling).await?;
        self.waiting.extend(messages);
        Ok(())
    }

    /// Makes messages ready whose bodies fit into memory together, and one at least.
    async fn read_bodies(&mut self) -> Result<(), SinkError> {
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some((number, message)) = self.waiting.pop_front()
        {
            let suspicion = &self.lease.lease.suspicion;
            let (most, mut verdict) = (suspicion.most(number), suspicion.verdict(number));
            let (headers, payload) = (message.headers.clone(), message.payload.clone());
            // Its ack wait is lengthened while its body is read.
            self.handed_out.insert(number, message);
            let body = match self.body(&headers).await {
                Ok(body) => body.unwrap_or(payload),
                Err(SinkError::Refused(reason)) => {
                    verdict = Some(reason);
                    payload
                }
                Err(error) => return Err(error),
            };
            bytes += body.len();
            self.ready.push(Taken {
                number,
                body,
                most,
                verdict,
            });
        }
        Ok(())
    }

    /// The body that `headers` name; `None` if the message has its own. A large body takes its time, in
    /// which the partition and its messages stay this consumer's.
    async fn body(&mut self, headers: &HeaderMap) -> Result<Option<Bytes>, SinkError> {
        let Some(claimed) = self.bodies.claimed(headers).await? else {
            return Ok(None);
        };
        let mut reading = Box::pin(claimed.read());
        let mut extend = interval(RENEW_INTERVAL);
        loop {
            tokio::select! {
                biased;
                body = &mut reading => return body.map(Some),
                _ = extend.tick() => self.extend_if_due().await?,
            }
        }
    }

    /// Lengthens the ack wait of what is in hand, and the lease.
    pub(super) async fn extend_if_due(&mut self) -> Result<(), SinkError> {
        self.lengthen_if_due().await?;
        self.lease.renew_if_due().await
    }

    async fn lengthen_if_due(&mut self) -> Result<(), SinkError> {
        if self.lengthened_at.elapsed() >= RENEW_INTERVAL {
            let waiting = self.waiting.iter().map(|(_, message)| message);
            let replies = waiting.chain(self.handed_out.values());
            let replies: Vec<Subject> = replies.map(|message| message.reply.clone()).collect();
            let client = &self.connection.client;
            let progress = async {
                for reply in replies {
                    let sent = client.publish(reply, AckKind::Progress.into()).await;
                    sent.map_err(|error| unavailable("cannot lengthen the ack wait", error))?;
                }
                Ok::<_, SinkError>(())
            };
            self.connection.run_within(LEASE, progress).await?;
            self.lengthened_at = Instant::now();
        }
        Ok(())
    }

    /// Notes in the lease what is about to be applied.
    pub(super) async fn begin(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        self.lengthen_if_due().await?;
        self.lease.lease.hand = numbers.last().map(|last| Hand {
            last: *last,
            count: numbers.len(),
        });
        self.lease.renew().await
    }

    /// Acks messages, and waits until the server has taken that.
    pub(super) async fn ack(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        let messages = numbers.iter();
        let messages = messages.filter_map(|number| self.handed_out.get(number));
        let client = &self.connection.client;
        let acks = messages.map(|message| client.request(message.reply.clone(), "+ACK".into()));
        let acking = async {
            let acked = try_join_all(acks).await;
            acked.map_err(|error| unavailable("an ack was not taken", error))
        };
        self.connection.run_within(LEASE, acking).await?;
        self.passed(numbers).await;
        Ok(())
    }

    /// The tasks are applied or set aside: what was put aside for them goes. A body that cannot be deleted
    /// is needed by nothing.
    async fn passed(&mut self, numbers: &[u64]) {
        let mut claims = Vec::new();
        for number in numbers {
            let message = self.handed_out.remove(number);
            claims.extend(message.and_then(|message| body::name(&message.headers)));
        }
        if let Some(last) = numbers.last() {
            self.lease.lease.suspicion.passed(*last);
        }
        self.lease.lease.hand = None;
        if claims.is_empty() {
            return;
        }
        let deleting = async {
            for claim in &claims {
                self.bodies.delete(claim).await?;
            }
            Ok::<_, SinkError>(())
        };
        if let Err(error) = self.connection.run_within(LEASE, deleting).await {
            tracing::warn!(%error, bodies = claims.len(), "large bodies that are needed no more stay in their bucket");
        }
    }

    /// Puts a message on the subject of dead letters, and acks it.
    pub(super) async fn set_aside(
        &mut self,
        subject: String,
        number: u64,
        reason: &str,
        attempts: u32,
    ) -> Result<(), SinkError> {
        let Some(message) = self.handed_out.get(&number) else {
            return Ok(());
        };
        let mut headers = HeaderMap::new();
        for name in [NATS_MESSAGE_ID, HeaderName::from_static(body::BODY)] {
            if let Some(value) = message.headers.get(name.clone()) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(ERROR, reason);
        headers.insert(ATTEMPTS, attempts.to_string().as_str());
        let publish = PublishMessage::build()
            .payload(message.payload.clone())
            .headers(headers);
        let reply = message.reply.clone();
        let putting = async {
            let sent = self.connection.context.send_publish(subject, publish).await;
            let sent = sent.map_err(|error| unavailable("cannot put a dead letter", error))?;
            let acked = sent.await;
            acked.map_err(|error| unavailable("cannot put a dead letter", error))?;
            let acked = self.connection.client.request(reply, "+ACK".into()).await;
            acked.map_err(|error| unavailable("an ack was not taken", error))
        };
        self.connection.run(putting).await?;
        // Its body stays: the dead letter names it.
        self.handed_out.remove(&number);
        self.passed(&[number]).await;
        Ok(())
    }
}

fn numbered(message: jetstream::Message) -> Result<(u64, Message), SinkError> {
    let number = message.info().map(|info| info.stream_sequence);
    let number = number.map_err(|error| unavailable("a message has no number", error))?;
    let (message, reply) = (&message.message, message.reply.clone());
    let reply = reply.ok_or_else(|| SinkError::unavailable("a message takes no ack"))?;
    let message = Message {
        reply,
        headers: message.headers.clone().unwrap_or_default(),
        payload: message.payload.clone(),
    };
    Ok((number, message))
}
