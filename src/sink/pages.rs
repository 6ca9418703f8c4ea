//! The pages of the change feed that one sink is given. The next one is read while one is delivered.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::SinkError;
use crate::delivery::budget::{Reservation, SinkShare};
use crate::model::{Change, Feed};
use crate::store::change_feed::{Cbor, ChangeFeed};
use crate::store::{ChangePage, PieceLimit, StoreError};

/// The deadline of a read of the feed.
pub(super) const FEED_DEADLINE: Duration = Duration::from_secs(10);

/// Reads pages, one ahead.
pub(super) struct Pages {
    feed: Arc<dyn ChangeFeed>,
    share: SinkShare,
    cbor: Cbor,
    /// The one that is being read, and the number behind which it begins.
    ahead: Option<(u64, AbortOnDropHandle<Result<Page, SinkError>>)>,
}

/// What was read and is not delivered yet.
pub(super) struct Page {
    pub(super) changes: VecDeque<Change>,
    /// The number up to which it has everything.
    pub(super) through: u64,
    /// What the database knew of its feed.
    pub(super) feed: Feed,
    _reservation: Reservation,
}

impl Pages {
    pub(super) fn new(feed: Arc<dyn ChangeFeed>, share: SinkShare, cbor: Cbor) -> Self {
        Self {
            feed,
            share,
            cbor,
            ahead: None,
        }
    }

    /// The page behind `after`: that which was read ahead, if it begins there and has changes. Of one that has
    /// none it matters what the database knows now.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn next(&mut self, after: u64, most: PieceLimit) -> Result<Page, SinkError> {
        if let Some((begin, reading)) = self.ahead.take()
            && begin == after
        {
            let read = reading.await;
            let page = read.unwrap_or_else(|error| Err(failed(&error)))?;
            if !page.changes.is_empty() {
                return Ok(page);
            }
        }
        self.read(after, most).await
    }

    /// Begins to read the page behind `page`, if the feed had more.
    pub(super) fn read_ahead(&mut self, page: &Page, most: PieceLimit) {
        if self.ahead.is_none() && page.through < page.feed.last {
            let reading = self.read(page.through, most);
            let reading = AbortOnDropHandle::new(tokio::spawn(reading));
            self.ahead = Some((page.through, reading));
        }
    }

    fn read(
        &self,
        after: u64,
        most: PieceLimit,
    ) -> impl Future<Output = Result<Page, SinkError>> + Send + 'static {
        let (feed, share, cbor) = (self.feed.clone(), self.share.clone(), self.cbor);
        let limit = PieceLimit {
            rows: most.rows,
            bytes: most.bytes.min(share.page_bytes() as u64),
        };
        async move {
            let reservation = share.reserve().await;
            let page = within_deadline(feed.changes(after, limit, cbor)).await?;
            let ChangePage {
                changes,
                through,
                feed,
            } = page;
            Ok(Page {
                changes: changes.into(),
                through,
                feed,
                _reservation: reservation,
            })
        }
    }
}

/// What the feed answers, if it does so in time.
pub(super) async fn within_deadline<T>(
    reading: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, SinkError> {
    let read = timeout(FEED_DEADLINE, reading).await;
    let read = read.unwrap_or(Err(StoreError::Deadline));
    read.map_err(|error| failed(&error))
}

fn failed(error: &dyn Display) -> SinkError {
    SinkError::unavailable(format_args!("the change feed: {error}"))
}
