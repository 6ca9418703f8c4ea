//! A queue from which index tasks are taken.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::SinkError;
use crate::model::{Feed, RandomId};

/// A message that was taken. It comes again if it is not acked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// It names the message until it is acked. In the order in which tasks are applied.
    pub number: u64,
    pub body: Bytes,
    /// With how many others it is applied at most, itself included: fewer where a consumer has ended with
    /// it in hand.
    pub most: usize,
    /// Why it is a dead letter before it is applied.
    pub verdict: Option<String>,
}

/// A part of a queue, for one consumer at a time.
///
/// A future may be dropped at any time, between any two steps. After an error all that was taken comes
/// again.
pub trait QueueSource: Send + 'static {
    /// Takes the messages behind those that were taken, in the queue's order, if it has one. Waits for them
    /// for less than a second. There are none while another consumer has this part.
    fn fetch(&mut self) -> BoxFuture<'_, Result<Vec<Taken>, SinkError>>;

    /// Notes, so that it outlives this process, that these messages are about to be applied, and no others.
    /// There may be none.
    ///
    /// # Errors
    /// If another consumer has this part now: they must not be applied.
    fn begin<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Has all that was taken stay with this consumer for longer.
    fn extend(&mut self) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Says that these messages are applied. They do not come again.
    fn ack<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Puts a message where dead letters are, with the reason, and acks it. The reason is an excerpt, in
    /// one line.
    fn set_aside<'a>(
        &'a mut self,
        number: u64,
        reason: &'a str,
        attempts: u32,
    ) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Gives this part back, so that another consumer can take it. What was taken comes again, there or
    /// here.
    fn release(&mut self) -> BoxFuture<'_, ()>;

    /// Stops for a while, after an error. What was taken comes again. A queue that counts how often it
    /// hands out a message keeps what it has; others give this part back.
    fn pause(&mut self) -> BoxFuture<'_, ()> {
        self.release()
    }

    /// Whether it has this part.
    fn has_part(&self) -> bool;

    /// What is known of a feed; `None` if the queue does not tell.
    fn feed<'a>(&'a mut self, id: &'a RandomId) -> BoxFuture<'a, Result<Option<Feed>, SinkError>>;
}

/// Says that this process is among those that share a queue.
pub trait Presence: Send + 'static {
    /// Says so for a few seconds more. Returns how many processes there are; `None` if the queue does not
    /// tell.
    fn beat(&mut self) -> BoxFuture<'_, Result<Option<u32>, SinkError>>;

    /// Says that this process ends.
    fn leave(&mut self) -> BoxFuture<'_, ()>;
}

/// A queue that several processes share.
pub trait Queue: Send + Sync + 'static {
    /// Into how many parts it is divided.
    fn parts(&self) -> u32;

    /// One of the parts. Nothing is connected yet.
    fn part(&self, number: u32) -> Box<dyn QueueSource>;

    fn presence(&self) -> Box<dyn Presence>;
}
