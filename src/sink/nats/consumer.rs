//! A partition of the stream, for one consumer at a time.
//!
//! The lease says which. Its holder makes a JetStream consumer of its own, which begins at the first
//! message that is not acked: so what the former holder had in hand comes first, in its order, and does
//! not wait for the end of an ack wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind, kv};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep};

use super::body::{self, Bodies};
use super::connection::{Connection, unavailable};
use super::feeds;
use super::lease::{Hand, LEASE, Lease};
use super::link::{Link, Linked};
use super::members::{Membership, NatsPresence, Slot};
use super::message::MESSAGE_ID;
use super::options::NatsOptions;
use super::streams;
use crate::model::{Feed, RandomId};
use crate::sink::SinkError;
use crate::sink::queue::{Presence, Queue, QueueSource, Taken};

/// Messages that are taken at once.
const BATCH: usize = 100;
/// The bytes that are handed out at once, and taken from the server at once. A single message may have
/// more.
const BATCH_BYTES: usize = 4 << 20;
/// How long it is waited for messages.
const PATIENCE: Duration = Duration::from_millis(700);
/// How often the lease of another consumer is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How often the lease is renewed, and the ack wait lengthened.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may wait for their acks. It is never reached: what is taken is acked before more is.
const MOST_UNACKED: i64 = 4 * BATCH as i64;

/// Headers of a dead letter, beside those of the task.
const ERROR: &str = "Huddle-Error";
const ATTEMPTS: &str = "Huddle-Attempts";

/// The consumers of one process.
pub struct NatsQueue {
    link: Link,
    membership: Arc<Membership>,
}

impl NatsQueue {
    pub fn new(options: NatsOptions) -> Self {
        Self {
            link: Link::new(options),
            membership: Arc::default(),
        }
    }
}

impl Queue for NatsQueue {
    fn parts(&self) -> u32 {
        self.link.options.layout.partitions
    }

    fn part(&self, number: u32) -> Box<dyn QueueSource> {
        Box::new(Partition {
            link: self.link.clone(),
            membership: self.membership.clone(),
            number,
            me: format!("{:032x}", fastrand::u128(..)),
            seen: None,
            held: None,
        })
    }

    fn presence(&self) -> Box<dyn Presence> {
        let membership = self.membership.clone();
        Box::new(NatsPresence::new(self.link.clone(), membership))
    }
}

struct Partition {
    link: Link,
    membership: Arc<Membership>,
    number: u32,
    /// No other consumer has this word.
    me: String,
    /// The lease of another consumer, and since when it has been the same.
    seen: Option<(u64, Instant)>,
    held: Option<Held>,
}

/// A partition that this consumer has.
struct Held {
    connection: Connection,
    leases: kv::Store,
    key: String,
    lease: Lease,
    revision: u64,
    renewed_at: Instant,
    consumer: PullConsumer,
    bodies: Bodies,
    /// What came from the server, and was not handed out yet.
    waiting: VecDeque<(u64, Message)>,
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

impl Partition {
    async fn take(&mut self) -> Result<Vec<Taken>, SinkError> {
        let held = match self.held.take() {
            Some(held) => Some(held),
            None => self.acquire().await?,
        };
        let Some(mut held) = held else {
            sleep(LOOK_INTERVAL).await;
            return Ok(Vec::new());
        };
        if held.is_idle() && self.membership.is_above_share() {
            held.give_back().await;
            return Ok(Vec::new());
        }
        held.renew_if_due().await?;
        if held.waiting.is_empty() {
            held.pull().await?;
        }
        let taken = held.hand_out().await?;
        self.held = Some(held);
        Ok(taken)
    }

    /// Takes the lease, if it is free and this consumer's share is not full.
    async fn acquire(&mut self) -> Result<Option<Held>, SinkError> {
        let Linked { connection, stream } = self.link.get().await?;
        let options = self.link.options.clone();
        let layout = &options.layout;
        let key = self.number.to_string();
        let reading = async {
            let context = &connection.context;
            let leases = streams::bucket(context, layout, layout.leases(), None).await?;
            let entry = leases.entry(&key).await;
            let entry = entry.map_err(|error| unavailable("cannot read a lease", error))?;
            Ok::<_, SinkError>((leases, entry))
        };
        let (leases, entry) = connection.run(reading).await?;
        let (former, revision) = match entry {
            // A lease that is not readable is that of no consumer of this version.
            Some(entry) => (
                serde_json::from_slice::<Lease>(&entry.value).unwrap_or_default(),
                entry.revision,
            ),
            None => (Lease::default(), 0),
        };
        let is_others = former
            .holder
            .as_ref()
            .is_some_and(|holder| *holder != self.me);
        if is_others && !self.has_expired(revision) {
            return Ok(None);
        }
        let Some(slot) = self.membership.slot() else {
            return Ok(None);
        };
        let suspicion = match former.hand.filter(|_| is_others) {
            Some(hand) => former.suspicion.after_end(hand),
            None => former.suspicion,
        };
        if is_others {
            tracing::warn!(
                partition = self.number,
                in_hand = former.hand.map_or(0, |hand| hand.count),
                "a consumer has not renewed its lease; its partition is taken over"
            );
        }
        let lease = Lease {
            holder: Some(self.me.clone()),
            hand: None,
            suspicion,
        };
        let Some(revision) = write(&connection, &leases, &key, &lease, revision).await? else {
            return Ok(None);
        };
        self.seen = None;
        let consumer = self.own_consumer(&connection, &stream, revision).await?;
        let now = Instant::now();
        Ok(Some(Held {
            bodies: Bodies::new(connection.clone(), layout.clone()),
            connection,
            leases,
            key,
            lease,
            revision,
            renewed_at: now,
            consumer,
            waiting: VecDeque::new(),
            handed_out: BTreeMap::new(),
            lengthened_at: now,
            _slot: slot,
        }))
    }

    /// Whether another consumer's lease has been the same for too long.
    fn has_expired(&mut self, revision: u64) -> bool {
        match self.seen {
            Some((seen, since)) if seen == revision => since.elapsed() >= LEASE,
            _ => {
                self.seen = Some((revision, Instant::now()));
                false
            }
        }
    }

    /// Makes the consumer of this lease. Those of older leases are deleted, and never that of a newer one:
    /// the name is the revision.
    async fn own_consumer(
        &self,
        connection: &Connection,
        stream: &jetstream::stream::Stream<jetstream::stream::Info>,
        revision: u64,
    ) -> Result<PullConsumer, SinkError> {
        let layout = &self.link.options.layout;
        let prefix = format!("{}-", self.number);
        let making = async {
            let names: Vec<String> = stream
                .consumer_names()
                .try_collect()
                .await
                .map_err(|error| unavailable("cannot list consumers", error))?;
            let older = names.iter().filter(|name| {
                let lease = name.strip_prefix(&prefix);
                let lease = lease.and_then(|lease| lease.parse::<u64>().ok());
                lease.is_some_and(|lease| lease < revision)
            });
            for name in older {
                // Another one may have deleted it.
                let _gone = stream.delete_consumer(name).await;
            }
            let config = pull::Config {
                durable_name: Some(format!("{prefix}{revision}")),
                filter_subject: layout.subject_of(self.number),
                ack_policy: AckPolicy::Explicit,
                ack_wait: LEASE,
                // Refusals are counted here, and ends in the lease.
                max_deliver: -1,
                max_ack_pending: MOST_UNACKED,
                ..pull::Config::default()
            };
            let made = stream.create_consumer(config).await;
            made.map_err(|error| unavailable("cannot make a consumer", error))
        };
        connection.run(making).await
    }

    fn held(&mut self) -> Result<&mut Held, SinkError> {
        self.held
            .as_mut()
            .ok_or_else(|| SinkError::unavailable("the partition was given back"))
    }

    /// After an error, nothing that was taken is known to be this consumer's.
    async fn checked<T>(&mut self, outcome: Result<T, SinkError>) -> Result<T, SinkError> {
        if outcome.is_err() {
            if let Some(held) = self.held.take() {
                held.give_back().await;
            }
            self.link.doubt().await;
        }
        outcome
    }
}

impl Held {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handed_out.is_empty()
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

    /// Hands out messages whose bodies fit into memory together, and one at least.
    async fn hand_out(&mut self) -> Result<Vec<Taken>, SinkError> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some((number, message)) = self.waiting.pop_front()
        {
            let suspicion = &self.lease.suspicion;
            let (most, mut verdict) = (suspicion.most(number), suspicion.verdict(number));
            let body = match self.bodies.get(&message.headers).await {
                Ok(body) => body.unwrap_or_else(|| message.payload.clone()),
                Err(SinkError::Refused(reason)) => {
                    verdict = Some(reason);
                    message.payload.clone()
                }
                Err(error) => return Err(error),
            };
            bytes += body.len();
            self.handed_out.insert(number, message);
            taken.push(Taken {
                number,
                body,
                most,
                verdict,
            });
            // A large body takes its time.
            self.extend_if_due().await?;
        }
        Ok(taken)
    }

    async fn renew(&mut self) -> Result<(), SinkError> {
        let (connection, leases) = (&self.connection, &self.leases);
        let written = write(connection, leases, &self.key, &self.lease, self.revision).await?;
        let Some(revision) = written else {
            return Err(SinkError::unavailable(
                "another consumer has taken the partition over",
            ));
        };
        self.revision = revision;
        self.renewed_at = Instant::now();
        Ok(())
    }

    async fn renew_if_due(&mut self) -> Result<(), SinkError> {
        match self.renewed_at.elapsed() >= RENEW_INTERVAL {
            true => self.renew().await,
            false => Ok(()),
        }
    }

    async fn extend_if_due(&mut self) -> Result<(), SinkError> {
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
            self.connection.run(progress).await?;
            self.lengthened_at = Instant::now();
        }
        self.renew_if_due().await
    }

    async fn begin(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        self.extend_if_due().await?;
        self.lease.hand = numbers.last().map(|last| Hand {
            last: *last,
            count: numbers.len(),
        });
        self.renew().await
    }

    async fn ack(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        let messages = numbers.iter();
        let messages = messages.filter_map(|number| self.handed_out.get(number));
        let client = &self.connection.client;
        let acks = messages.map(|message| client.request(message.reply.clone(), "+ACK".into()));
        let acking = async {
            let acked = try_join_all(acks).await;
            acked.map_err(|error| unavailable("an ack was not taken", error))
        };
        self.connection.run(acking).await?;
        self.passed(numbers).await
    }

    /// The tasks are applied or set aside: what was put aside for them goes.
    async fn passed(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        let mut claims = Vec::new();
        for number in numbers {
            let message = self.handed_out.remove(number);
            claims.extend(message.and_then(|message| body::name(&message.headers)));
        }
        if let Some(last) = numbers.last() {
            self.lease.suspicion.passed(*last);
        }
        self.lease.hand = None;
        for claim in claims {
            self.bodies.delete(&claim).await?;
        }
        Ok(())
    }

    async fn set_aside(
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
        for name in [MESSAGE_ID, body::BODY] {
            if let Some(value) = message.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(ERROR, one_line(reason).as_str());
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
        self.passed(&[number]).await
    }

    /// Gives the lease back. If that fails, it ends by itself.
    async fn give_back(mut self) {
        self.lease.holder = None;
        self.lease.hand = None;
        let _ends_by_itself = self.renew().await;
    }
}

/// Writes a lease over the one with `revision`. Returns the new revision; `None` if another consumer was
/// faster.
async fn write(
    connection: &Connection,
    leases: &kv::Store,
    key: &str,
    lease: &Lease,
    revision: u64,
) -> Result<Option<u64>, SinkError> {
    let value = serde_json::to_vec(lease).map_err(SinkError::unavailable)?;
    let writing = async {
        match leases.update(key, value.into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) => match error.kind() {
                kv::UpdateErrorKind::WrongLastRevision => Ok(None),
                _ => Err(unavailable("cannot write a lease", error)),
            },
        }
    };
    connection.run(writing).await
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

/// A header has no line breaks.
fn one_line(text: &str) -> String {
    let is_plain = |c: char| !c.is_control();
    text.chars()
        .map(|c| if is_plain(c) { c } else { ' ' })
        .take(1000)
        .collect()
}

impl QueueSource for Partition {
    fn fetch(&mut self) -> BoxFuture<'_, Result<Vec<Taken>, SinkError>> {
        Box::pin(async {
            let taken = self.take().await;
            self.checked(taken).await
        })
    }

    fn begin<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            let begun = self.held()?.begin(numbers).await;
            self.checked(begun).await
        })
    }

    fn extend(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async {
            let extended = self.held()?.extend_if_due().await;
            self.checked(extended).await
        })
    }

    fn ack<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            let acked = self.held()?.ack(numbers).await;
            self.checked(acked).await
        })
    }

    fn set_aside<'a>(
        &'a mut self,
        number: u64,
        reason: &'a str,
        attempts: u32,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let layout = &self.link.options.layout;
            let subject = layout.dead_letter_subject_of(self.number);
            let held = self.held()?;
            let set_aside = held.set_aside(subject, number, reason, attempts).await;
            self.checked(set_aside).await
        })
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(held) = self.held.take() {
                held.give_back().await;
            }
        })
    }

    fn has_part(&self) -> bool {
        self.held.is_some()
    }

    fn feed<'a>(&'a mut self, id: &'a RandomId) -> BoxFuture<'a, Result<Option<Feed>, SinkError>> {
        Box::pin(async {
            let link = self.link.clone();
            let connection = &self.held()?.connection;
            let read = feeds::read(connection, &link.options.layout, id).await;
            self.checked(read).await
        })
    }
}
