//! Publishes messages to a stream that was taken over, and waits for their acks.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::stream::{Info, Stream};
use bytes::BytesMut;
use bytestring::ByteString;
use tokio::time::{Instant, sleep};

use super::acks::{self, Acks};
use super::body::{self, Bodies};
use super::connection::{Connection, unavailable};
use super::mark::Mark;
use super::message::{self, Message};
use super::options::Layout;
use crate::model::{Change, Feed};
use crate::sink::SinkError;

/// How many messages are built before they are sent. What the client is handed together, it writes together:
/// a write to the socket costs more than a message.
const BURST: usize = 128;
/// The bytes of a piece of memory that has the ids and bodies of messages.
const BODIES: usize = 64 << 10;

/// How long a delivery waits for consumers to make room, and how often it looks.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);
const ROOM_INTERVAL: Duration = Duration::from_millis(200);

/// A connection, and what is known of its stream.
pub(super) struct Publisher {
    connection: Connection,
    stream: Stream<Info>,
    /// What the stream is, and what it has acknowledged.
    pub(super) mark: Mark,
    bodies: Bodies,
    acks: Acks,
    layout: Layout,
    /// Of each partition.
    subjects: Vec<Subject>,
    /// Where the next ids and bodies are written. So they are not an allocation each.
    buffer: BytesMut,
}

/// What became of changes that were to be published.
pub(super) struct Published {
    /// Of how many of the first ones the acks came.
    pub(super) acked: usize,
    /// The stream had no room for the others.
    pub(super) is_cut: bool,
    /// What failed behind them.
    pub(super) failure: Option<SinkError>,
}

/// Messages that were sent.
#[derive(Default)]
struct Flight {
    /// Those that wait for their acks.
    sent: VecDeque<Sent>,
    acked: usize,
    /// An ack did not come, or the stream did not take the message.
    failure: Option<SinkError>,
}

/// A message that was sent, and is not acknowledged yet.
struct Sent {
    id: ByteString,
    /// The object that has its body.
    claim: Option<String>,
}

impl Publisher {
    /// # Errors
    /// If the acks cannot be asked for.
    pub(super) async fn new(
        connection: Connection,
        stream: Stream<Info>,
        mark: Mark,
        layout: Layout,
    ) -> Result<Self, SinkError> {
        let partitions = 0..layout.partitions.max(1);
        Ok(Self {
            bodies: Bodies::new(connection.clone(), layout.clone()),
            acks: Acks::open(&connection.client).await?,
            subjects: partitions
                .map(|partition| layout.subject_of(partition).into())
                .collect(),
            buffer: BytesMut::with_capacity(BODIES),
            connection,
            stream,
            mark,
            layout,
        })
    }

    /// Publishes the first changes for which the stream has room, at least one, and waits for their acks.
    pub(super) async fn publish(&mut self, feed: &Feed, changes: &[Change]) -> Published {
        let mut flight = Flight::default();
        let mut room = None;
        let mut is_cut = false;
        let mut not_sent = None;
        for changes in changes.chunks(BURST) {
            if flight.sent.len() + changes.len() > acks::MOST {
                self.take_acks(&mut flight, acks::MOST / 2).await;
            }
            if flight.failure.is_some() {
                break;
            }
            let (messages, failure) = self.messages(feed, changes, &mut room).await;
            is_cut = messages.len() < changes.len();
            not_sent = self.send_all(feed, messages, &mut flight).await.or(failure);
            if is_cut || not_sent.is_some() {
                break;
            }
        }
        self.take_acks(&mut flight, 0).await;
        Published {
            acked: flight.acked,
            is_cut,
            failure: flight.failure.or(not_sent),
        }
    }

    /// Sends messages. Returns what failed.
    async fn send_all(
        &mut self,
        feed: &Feed,
        messages: Vec<Message<'_>>,
        flight: &mut Flight,
    ) -> Option<SinkError> {
        let connection = self.connection.clone();
        let sending = async {
            for message in messages {
                flight.sent.push_back(self.send(feed, message).await?);
            }
            Ok::<(), SinkError>(())
        };
        connection.run(sending).await.err()
    }

    /// Takes acks, in the order of the messages, until at most `most` wait for theirs, or one fails.
    async fn take_acks(&mut self, flight: &mut Flight, most: usize) {
        if flight.failure.is_some() {
            return;
        }
        let connection = self.connection.clone();
        let taking = async {
            while flight.sent.len() > most
                && let Some(sent) = flight.sent.pop_front()
            {
                self.ack(sent).await?;
                flight.acked += 1;
            }
            Ok::<(), SinkError>(())
        };
        flight.failure = connection.run(taking).await.err();
    }

    /// The messages of the first changes for which the stream has room, and what failed behind them. `room`
    /// is what the stream has left; `None`: it is asked.
    ///
    /// The room is known before they are sent: of changes that were refused, and of smaller ones behind them
    /// that were not, the order would be lost.
    async fn messages<'a>(
        &mut self,
        feed: &Feed,
        changes: &'a [Change],
        room: &mut Option<u64>,
    ) -> (Vec<Message<'a>>, Option<SinkError>) {
        let largest = self.largest() as u64;
        let mut messages = Vec::with_capacity(changes.len());
        for change in changes {
            let building = async {
                let message = self.message(feed, change)?;
                let bytes = message.bytes().min(largest);
                let left = match *room {
                    Some(left) => left,
                    None => self.room_for(bytes).await?,
                };
                *room = Some(left.saturating_sub(bytes));
                Ok((bytes <= left).then_some(message))
            };
            match building.await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        (messages, None)
    }

    fn message<'a>(&mut self, feed: &Feed, change: &'a Change) -> Result<Message<'a>, SinkError> {
        let (partitions, rewinds) = (self.layout.partitions, self.mark.rewinds());
        Message::new(change, feed, (partitions, rewinds), &mut self.buffer)
    }

    async fn send(&mut self, feed: &Feed, message: Message<'_>) -> Result<Sent, SinkError> {
        let mut headers = message::headers(&message.id, &self.layout.stream);
        let subject = self.subjects.get(message.partition as usize).cloned();
        let subject =
            subject.ok_or_else(|| SinkError::unavailable("there is no such partition"))?;
        let (id, body, claim) = match message.is_large(self.largest()) {
            false => (message.id, message.body, None),
            true => {
                let claim = self.bodies.put(&message.id, &message.body).await?;
                body::claim(&mut headers, &claim);
                let body = message.without_record(feed)?;
                (message.id, body, Some(claim))
            }
        };
        let reply = self.acks.subject();
        let reply =
            reply.ok_or_else(|| SinkError::unavailable("too many messages wait for their acks"))?;
        let client = &self.connection.client;
        let sending = client.publish_with_reply_and_headers(subject, reply, headers, body);
        sending
            .await
            .map_err(|error| unavailable("cannot publish", error))?;
        Ok(Sent { id, claim })
    }

    async fn ack(&mut self, sent: Sent) -> Result<(), SinkError> {
        let ack = self.acks.next().await?;
        self.mark.note(ack.seq, sent.id);
        match sent.claim.filter(|_| ack.is_duplicate) {
            // The message that is there has a body of its own.
            Some(claim) => self.bodies.delete(&claim).await,
            None => Ok(()),
        }
    }

    /// The bytes for which the stream has room; at least `bytes`, for which it waits.
    async fn room_for(&self, bytes: u64) -> Result<u64, SinkError> {
        let deadline = Instant::now() + ROOM_DEADLINE;
        loop {
            let asking = async {
                let info = self.stream.get_info().await;
                info.map_err(|error| unavailable("cannot ask the stream", error))
            };
            let info = self.connection.run(asking).await?;
            if !self.mark.is_of(&info) || self.mark.seq() > Some(info.state.last_sequence) {
                return Err(SinkError::unavailable("the stream is another one now"));
            }
            let most = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
            let room = most.saturating_sub(info.state.bytes);
            if room >= bytes {
                return Ok(room);
            }
            if Instant::now() >= deadline {
                return Err(SinkError::unavailable(format_args!(
                    "the stream is full ({} of {most} bytes); it waits for consumers",
                    info.state.bytes
                )));
            }
            sleep(ROOM_INTERVAL).await;
        }
    }

    /// The bytes of the largest message.
    fn largest(&self) -> usize {
        let of_server = self.connection.client.max_payload();
        let of_stream = self.stream.cached_info().config.max_message_size;
        match usize::try_from(of_stream) {
            Ok(of_stream) if of_stream > 0 => of_server.min(of_stream),
            _ => of_server,
        }
    }
}
