//! A partition of the stream, for one consumer at a time.
//!
//! The lease says which. Its holder makes a JetStream consumer of its own, which begins at the first
//! message that is not acked: so what the former holder had in hand comes first, in its order, and does
//! not wait for the end of an ack wait.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Info, Stream};
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::body::Bodies;
use super::connection::{Connection, unavailable};
use super::held::{BATCH, Held};
use super::kept_lease::KeptLease;
use super::lease::{LEASE, Lease};
use super::link::{Found, Link, Linked};
use super::members::{Membership, NatsPresence};
use super::options::NatsOptions;
use crate::model::{Feed, RandomId};
use crate::sink::SinkError;
use crate::sink::queue::{Presence, Queue, QueueSource, Taken};

/// How often the lease of another consumer is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// The deadline of a fetch, whether it acquires a partition, pulls or reads large bodies. Behind it the
/// partition is given back, within three seconds: see [`LEASE`].
const FETCH_DEADLINE: Duration = Duration::from_secs(45);
/// Messages that may wait for their acks. It is never reached: what is taken is acked before more is.
const MOST_UNACKED: i64 = 4 * BATCH as i64;

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
            me: RandomId::random().to_string(),
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
        let taken = held.take().await?;
        self.held = Some(held);
        Ok(taken)
    }

    /// Takes the lease, if it is free and this consumer's share is not full.
    async fn acquire(&mut self) -> Result<Option<Held>, SinkError> {
        let Linked { connection, found } = self.link.get().await?;
        let Found {
            stream,
            leases,
            feeds,
            ..
        } = found;
        let layout = self.link.options.layout.clone();
        let key = self.number.to_string();
        let reading = async {
            let entry = leases.entry(&key).await;
            entry.map_err(|error| unavailable("cannot read a lease", error))
        };
        let entry = connection.run(reading).await?;
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
        let taking = KeptLease::take(connection.clone(), leases, key, lease, revision);
        let Some(lease) = taking.await? else {
            return Ok(None);
        };
        self.seen = None;
        let consumer = self.own_consumer(&connection, &stream, lease.revision());
        let consumer = consumer.await?;
        let bodies = Bodies::new(connection.clone(), layout);
        Ok(Some(Held::new(
            connection, lease, consumer, bodies, feeds, slot,
        )))
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
        stream: &Stream<Info>,
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
            self.link.doubt();
        }
        outcome
    }
}

impl QueueSource for Partition {
    fn fetch(&mut self) -> BoxFuture<'_, Result<Vec<Taken>, SinkError>> {
        Box::pin(async {
            let taken = timeout(FETCH_DEADLINE, self.take()).await;
            let taken = taken.unwrap_or(Err(SinkError::late(FETCH_DEADLINE)));
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
            let read = self.held()?.feed(id).await;
            self.checked(read).await
        })
    }
}
