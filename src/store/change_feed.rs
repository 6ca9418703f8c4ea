//! The change feed as its readers see it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{ChangePage, PieceLimit, StoreError};
use crate::model::{DeadLetter, Feed, FeedPosition};

/// Whether a page of the feed has the CBOR of its records. Most readers have no use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cbor {
    With,
    Without,
}

/// The log that goes out: the rows of the tables in the order in which they were last written.
pub trait ChangeFeed: Send + Sync + 'static {
    /// What the database knows of its feed.
    fn feed(&self) -> BoxFuture<'_, Result<Feed, StoreError>>;

    /// The changes behind `after`, in their order, at most `limit`, and one if there is any.
    fn changes(
        &self,
        after: u64,
        limit: PieceLimit,
        cbor: Cbor,
    ) -> BoxFuture<'_, Result<ChangePage, StoreError>>;

    /// The CBOR of the record whose last change has this number; `None` if it has another one by now.
    fn record_cbor(&self, change: u64) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>>;

    /// How many rows the feed has behind `after`, counted up to `most`.
    fn count_changes(&self, after: u64, most: u64) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Whether all rows have numbers. Those of an earlier version get them in pieces.
    fn is_numbered(&self) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// What `sink` was when its position was kept last; `None` if none was.
    fn sink_target<'a>(
        &'a self,
        sink: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, StoreError>>;

    /// The position that was kept for `sink`, when it was `target`.
    fn sink_position<'a>(
        &'a self,
        sink: &'a str,
        target: &'a str,
    ) -> BoxFuture<'a, Result<Option<FeedPosition>, StoreError>>;

    /// Keeps the position of a sink that keeps none.
    fn keep_sink_position<'a>(
        &'a self,
        sink: &'a str,
        target: &'a str,
        position: &'a FeedPosition,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Keeps what `sink` refuses for good.
    fn set_aside<'a>(
        &'a self,
        sink: &'a str,
        letter: DeadLetter,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Changes with each transaction of this process.
    fn commits(&self) -> watch::Receiver<u64>;
}
