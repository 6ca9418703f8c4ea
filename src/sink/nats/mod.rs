//! A queue in NATS JetStream: each change is a message on the subject of its account's partition. The
//! position is in the worker's database, and moves behind the acks.

mod body;
mod connection;
mod consumer;
mod feeds;
mod held;
mod kept_lease;
mod lease;
mod link;
mod mark;
mod members;
mod message;
mod options;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use self::body::Bodies;
use self::connection::{Connection, unavailable};
pub use self::consumer::NatsQueue;
use self::mark::{Mark, Standing};
use self::message::Message;
pub use self::options::NatsOptions;
use self::streams::Side;
use super::{Delivery, Sink, SinkError};
use crate::model::{Change, Feed, FeedPosition};
use crate::store::PieceLimit;
use crate::store::change_feed::ChangeFeed;

/// What is published before all acks are waited for.
const LIMIT: PieceLimit = PieceLimit {
    rows: 2_000,
    bytes: 4 << 20,
};

/// How long a delivery waits for consumers to make room, and how often it looks.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);
const ROOM_INTERVAL: Duration = Duration::from_millis(200);

/// A stream that follows the change feed.
pub struct NatsSink {
    options: NatsOptions,
    name: Arc<str>,
    /// Keeps the position.
    feed: Arc<dyn ChangeFeed>,
    taken: Option<Taken>,
    /// How many changes a delivery has at most. A stream that is almost full has room for few at a time, and
    /// a delivery of many would not end within its deadline.
    rows: u64,
}

/// What is known of the stream since it was taken over.
struct Taken {
    connection: Connection,
    stream: Stream<Info>,
    mark: Mark,
    bodies: Bodies,
}

/// A message that was sent, and its ack.
struct Sent {
    id: String,
    /// The object that has its body.
    claim: Option<String>,
    ack: PublishAckFuture,
}

impl NatsSink {
    pub fn new(options: NatsOptions, name: Arc<str>, feed: Arc<dyn ChangeFeed>) -> Self {
        Self {
            options,
            name,
            feed,
            taken: None,
            rows: LIMIT.rows,
        }
    }

    async fn take(&mut self, feed: &Feed) -> Result<u64, SinkError> {
        self.taken = None;
        let layout = &self.options.layout;
        let connection = Connection::open(&self.options).await?;
        let stream = streams::ensure(&connection, layout, Side::Producer).await?;
        let (kept, mark) = self.kept().await?;
        let (after, mark) = match mark {
            None => (0, Mark::of(stream.cached_info())),
            Some(mark) => self.stand(feed, &connection, &stream, (kept, mark)).await?,
        };
        feeds::keep(&connection, layout, feed).await?;
        // It is kept now: when the next messages have come, the stream cannot be seen any more to have
        // gone back.
        self.keep(feed, after, &mark).await?;
        self.taken = Some(Taken {
            bodies: Bodies::new(connection.clone(), layout.clone()),
            connection,
            stream,
            mark,
        });
        Ok(after)
    }

    /// The position that was kept, and what the stream was then.
    async fn kept(&self) -> Result<(Option<FeedPosition>, Option<Mark>), SinkError> {
        let target = self.feed.sink_target(&self.name).await;
        let Some(target) = target.map_err(SinkError::unavailable)? else {
            return Ok((None, None));
        };
        let Ok(mark) = target.parse() else {
            // Another kind of sink had this name.
            return Ok((None, None));
        };
        let position = self.feed.sink_position(&self.name, &target).await;
        Ok((position.map_err(SinkError::unavailable)?, Some(mark)))
    }

    /// Where delivery goes on, by what the stream has of what it acknowledged.
    async fn stand(
        &self,
        feed: &Feed,
        connection: &Connection,
        stream: &Stream<Info>,
        (kept, mark): (Option<FeedPosition>, Mark),
    ) -> Result<(u64, Mark), SinkError> {
        let info = stream.cached_info();
        let there = match mark.seq() {
            Some(seq) => id_of(connection, stream, seq).await?,
            None => None,
        };
        let standing = mark.compare(info, there.as_deref());
        let after = feed.begin(kept.as_ref());
        if standing == Standing::Same {
            return Ok((after, mark));
        }
        let mut now = match standing {
            Standing::Another => Mark::of(info),
            Standing::Same | Standing::WentBack => mark.anew(info),
        };
        let mut back = 0;
        if standing == Standing::WentBack {
            let last = info.state.last_sequence;
            if let Some(id) = id_of(connection, stream, last).await? {
                // Messages are published in the order of their changes.
                let position = message::position_of(&id);
                back = position.map_or(0, |position| feed.begin(Some(&position)).min(after));
                now.note(last, id);
            }
        }
        tracing::warn!(
            sink = %self.name,
            stream = info.config.name,
            standing = ?standing,
            from = after,
            to = back,
            "the stream does not have what it acknowledged; what it may lack is published again"
        );
        Ok((back, now))
    }

    async fn keep(&self, feed: &Feed, to: u64, mark: &Mark) -> Result<(), SinkError> {
        let Some(position) = feed.position(to) else {
            return Ok(());
        };
        let target = mark.to_string();
        let kept = self.feed.keep_sink_position(&self.name, &target, &position);
        kept.await.map_err(SinkError::unavailable)
    }

    async fn publish_all(&mut self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let mut taken = self.taken.take().ok_or(SinkError::Superseded)?;
        if delivery.to < delivery.from {
            taken.mark.note_rewind();
        }
        let mut rest = delivery.changes;
        while !rest.is_empty() {
            let (sent, not_sent) = self.send_some(&mut taken, delivery.feed, rest).await;
            if not_sent.is_none() {
                self.rows = match sent.len() < rest.len() {
                    true => sent.len() as u64,
                    false => self.rows.saturating_mul(2).min(LIMIT.rows),
                };
            }
            let (acked, not_acked) = taken.acks(sent).await;
            let failure = not_acked.or(not_sent);
            if let Some(refused @ SinkError::Refused(_)) = failure {
                self.taken = Some(taken);
                return Err(refused);
            }
            let (now, later) = rest.split_at(acked);
            if let Some(last) = now.last() {
                self.keep(delivery.feed, last.number, &taken.mark).await?;
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            rest = later;
        }
        if delivery.changes.last().map(|last| last.number) != Some(delivery.to) {
            self.keep(delivery.feed, delivery.to, &taken.mark).await?;
        }
        self.taken = Some(taken);
        Ok(())
    }

    /// Sends the first changes for which the stream has room, at least one. Returns them, and what failed
    /// behind them.
    ///
    /// The room is known before they are sent: of changes that were refused, and of smaller ones behind them
    /// that were not, the order would be lost.
    async fn send_some(
        &self,
        taken: &mut Taken,
        feed: &Feed,
        changes: &[Change],
    ) -> (Vec<Sent>, Option<SinkError>) {
        let partitions = self.options.layout.partitions;
        let rewinds = taken.mark.rewinds();
        let mut sent = Vec::with_capacity(changes.len());
        let mut room = 0;
        for change in changes {
            let sending = async {
                let message = Message::new(change, feed, partitions, rewinds)?;
                let bytes = message.bytes().min(taken.largest() as u64);
                if sent.is_empty() {
                    room = taken.room_for(bytes).await?;
                }
                if bytes > room {
                    return Ok(None);
                }
                room -= bytes;
                self.send(taken, feed, &message).await.map(Some)
            };
            match sending.await {
                Ok(Some(message)) => sent.push(message),
                Ok(None) => break,
                Err(error) => return (sent, Some(error)),
            }
        }
        (sent, None)
    }

    async fn send(
        &self,
        taken: &mut Taken,
        feed: &Feed,
        message: &Message<'_>,
    ) -> Result<Sent, SinkError> {
        let layout = &self.options.layout;
        let mut headers = message::headers(&message.id, &layout.stream);
        let (body, claim) = match message.is_large(taken.largest()) {
            false => (message.body.clone(), None),
            true => {
                let claim = taken.bodies.put(&message.id, &message.body).await?;
                body::claim(&mut headers, &claim);
                (message.without_record(feed)?, Some(claim))
            }
        };
        let publish = PublishMessage::build().payload(body).headers(headers);
        let sending = async {
            let subject = layout.subject_of(message.partition);
            let sent = taken
                .connection
                .context
                .send_publish(subject, publish)
                .await;
            sent.map_err(|error| unavailable("cannot publish", error))
        };
        let ack = taken.connection.run(sending).await?;
        Ok(Sent {
            id: message.id.clone(),
            claim,
            ack,
        })
    }
}

impl Taken {
    /// Waits for the acks of messages. Returns of how many of the first ones they came, and what failed behind
    /// them.
    async fn acks(&mut self, sent: Vec<Sent>) -> (usize, Option<SinkError>) {
        let count = sent.len();
        for (acked, message) in sent.into_iter().enumerate() {
            if let Err(error) = self.ack(message).await {
                return (acked, Some(error));
            }
        }
        (count, None)
    }

    async fn ack(&mut self, sent: Sent) -> Result<(), SinkError> {
        let Sent { id, claim, ack } = sent;
        let answer = async {
            let answer = ack.await;
            answer.map_err(|error| unavailable("a message was not acknowledged", error))
        };
        let ack = self.connection.run(answer).await?;
        self.mark.note(ack.sequence, id);
        match claim.filter(|_| ack.duplicate) {
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

/// The id of the message with this number; `None` if it is not there.
async fn id_of(
    connection: &Connection,
    stream: &Stream<Info>,
    seq: u64,
) -> Result<Option<String>, SinkError> {
    if seq == 0 {
        return Ok(None);
    }
    let reading = async {
        match stream.get_raw_message(seq).await {
            Ok(found) => {
                let id = found.headers.get(message::MESSAGE_ID);
                Ok(id.map(|id| id.as_str().to_owned()))
            }
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                _ => Err(unavailable("cannot read a message", error)),
            },
        }
    };
    connection.run(reading).await
}

impl Sink for NatsSink {
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>> {
        Box::pin(self.take(feed))
    }

    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.publish_all(delivery))
    }

    fn limit(&self) -> PieceLimit {
        PieceLimit {
            rows: self.rows,
            ..LIMIT
        }
    }
}
