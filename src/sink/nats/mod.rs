//! A queue in NATS JetStream: each change is a message on the subject of its account's partition. The
//! position is in the worker's database, and moves behind the acks.

mod acks;
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
mod publisher;
mod streams;
mod tls;

use std::sync::Arc;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use futures_util::future::BoxFuture;

use self::connection::{Connection, unavailable};
pub use self::consumer::NatsQueue;
use self::mark::{Mark, Standing};
pub use self::options::NatsOptions;
use self::publisher::{Published, Publisher};
use self::streams::Side;
use super::{Delivery, Sink, SinkError};
use crate::model::{Feed, FeedPosition};
use crate::store::PieceLimit;
use crate::store::change_feed::ChangeFeed;

/// What a delivery has at most.
const LIMIT: PieceLimit = PieceLimit {
    rows: 2_000,
    bytes: 4 << 20,
};

/// A stream that follows the change feed.
pub struct NatsSink {
    options: NatsOptions,
    name: Arc<str>,
    /// Keeps the position.
    feed: Arc<dyn ChangeFeed>,
    taken: Option<Publisher>,
    /// How many changes a delivery has at most. A stream that is almost full has room for few at a time, and
    /// a delivery of many would not end within its deadline.
    rows: u64,
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
        let publisher = Publisher::new(connection, stream, mark, layout.clone()).await?;
        self.taken = Some(publisher);
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
                now.note(last, id.into());
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
            let Published {
                acked,
                is_cut,
                failure,
            } = taken.publish(delivery.feed, rest).await;
            if failure.is_none() {
                self.rows = match is_cut {
                    true => acked as u64,
                    false => self.rows.saturating_mul(2).min(LIMIT.rows),
                };
            }
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
                let id = found.headers.get(NATS_MESSAGE_ID);
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
