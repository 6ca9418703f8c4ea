//! Reads the change feed.

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::BoxFuture;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::watch;

use super::feed_page::{FeedPage, Listed};
use super::{SqliteStore, apply, changed_records, feed, integer, sink_positions};
use crate::model::{
    Change, ChangedAccount, ChangedRow, DeadLetter, Epoch, Feed, FeedPosition, RandomId,
};
use crate::store::change_feed::{Cbor, ChangeFeed};
use crate::store::{ChangePage, PieceLimit, StoreError};

/// Records that are read as one value. So few stay in the processor's caches, and are no allocation that the system
/// has to make anew for each page.
const PIECE: u64 = 128;

const CBOR: &str = "SELECT change, record_cbor FROM records \
     WHERE change > ?1 AND change <= ?2 AND record_cbor IS NOT NULL";

/// A row that no event has set, such as one of a handle that is not known, has the time of its writing.
const ACCOUNTS: &str = "SELECT change, did, active, status, handle, handle_status, removed_at, removal_change, \
     coalesce(nullif(min(max(coalesce(as_of, ''), coalesce(handle_as_of, ''), \
     coalesce(hold_as_of, ''), coalesce(removed_at, '')), updated_at), ''), updated_at) AS time, \
     updated_at \
     FROM accounts WHERE change > ?1 AND change <= ?2 ORDER BY change LIMIT +?3";

#[derive(sqlx::FromRow)]
struct AccountColumns {
    change: i64,
    did: String,
    active: bool,
    status: Option<String>,
    handle: Option<String>,
    handle_status: String,
    removed_at: Option<String>,
    removal_change: Option<i64>,
    time: String,
    updated_at: String,
}

impl SqliteStore {
    /// What the database knows of its feed.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn feed(&self) -> Result<Feed, StoreError> {
        let mut reader = self.reader().acquire().await?;
        let mut snapshot = reader.begin().await?;
        Ok(read_feed(&mut snapshot).await?)
    }

    /// The changes behind `after`, in their order, at most `limit`, and one if there is any: of one state
    /// of the database.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn changes(
        &self,
        after: u64,
        limit: PieceLimit,
        cbor: Cbor,
    ) -> Result<ChangePage, StoreError> {
        let mut reader = self.reader().acquire().await?;
        let mut snapshot = reader.begin().await?;
        let feed = read_feed(&mut snapshot).await?;
        let mut page = FeedPage::new(after, limit);
        let mut is_end = false;
        while page.room() > 0 && !is_end {
            is_end = read_piece(&mut snapshot, &feed, cbor, &mut page).await?;
        }
        let through = page.through();
        let mut rows = page.into_rows();
        complete(&mut snapshot, &mut rows).await?;
        if cbor == Cbor::With {
            read_cbor(&mut snapshot, (after, through), &mut rows).await?;
        }
        let changes = rows.into_iter().filter_map(|listed| {
            Some(Change {
                epoch: feed.epoch_of(listed.number)?.clone(),
                number: listed.number,
                row: listed.row?,
            })
        });
        Ok(ChangePage {
            changes: changes.collect(),
            through,
            feed,
        })
    }

    /// The CBOR of the record whose last change has this number; `None` if it has another one by now.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn record_cbor(&self, change: u64) -> Result<Option<Bytes>, StoreError> {
        let cbor: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT record_cbor FROM records WHERE change = ?")
                .bind(integer(change))
                .fetch_optional(self.reader())
                .await?;
        Ok(cbor.flatten().map(Bytes::from))
    }

    /// How many rows the feed has behind `after`, counted up to `most`.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn count_changes(&self, after: u64, most: u64) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM records WHERE change > ?1 LIMIT +?2)) \
             + (SELECT count(*) FROM (SELECT 1 FROM accounts WHERE change > ?1 LIMIT +?2))",
        )
        .bind(integer(after))
        .bind(integer(most))
        .fetch_one(self.reader())
        .await?;
        Ok(count.unsigned_abs().min(most))
    }
}

impl ChangeFeed for SqliteStore {
    fn feed(&self) -> BoxFuture<'_, Result<Feed, StoreError>> {
        Box::pin(self.feed())
    }

    fn changes(
        &self,
        after: u64,
        limit: PieceLimit,
        cbor: Cbor,
    ) -> BoxFuture<'_, Result<ChangePage, StoreError>> {
        Box::pin(self.changes(after, limit, cbor))
    }

    fn record_cbor(&self, change: u64) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.record_cbor(change))
    }

    fn count_changes(&self, after: u64, most: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.count_changes(after, most))
    }

    fn is_numbered(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(feed::is_numbered(self))
    }

    fn sink_target<'a>(
        &'a self,
        sink: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(sink_positions::target(self, sink))
    }

    fn sink_position<'a>(
        &'a self,
        sink: &'a str,
        target: &'a str,
    ) -> BoxFuture<'a, Result<Option<FeedPosition>, StoreError>> {
        Box::pin(sink_positions::read(self, sink, target))
    }

    fn keep_sink_position<'a>(
        &'a self,
        sink: &'a str,
        target: &'a str,
        position: &'a FeedPosition,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(sink_positions::keep(&self.writer, sink, target, position))
    }

    fn set_aside<'a>(
        &'a self,
        sink: &'a str,
        letter: DeadLetter,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(apply::keep_letter(&self.writer, sink, letter))
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.writer.commits()
    }
}

async fn read_feed(connection: &mut SqliteConnection) -> Result<Feed, sqlx::Error> {
    let (id, last): (String, i64) = sqlx::query_as("SELECT feed, last FROM change_feed")
        .fetch_one(&mut *connection)
        .await?;
    let epochs: Vec<(String, i64)> =
        sqlx::query_as("SELECT epoch, first_change FROM feed_epochs ORDER BY id")
            .fetch_all(connection)
            .await?;
    let epoch = |(id, first): (String, i64)| Epoch {
        id: RandomId::new(&id),
        first_change: first.unsigned_abs(),
    };
    Ok(Feed {
        id: RandomId::new(&id),
        epochs: epochs.into_iter().map(epoch).collect(),
        last: last.unsigned_abs(),
    })
}

/// Reads a piece of a page. Returns whether there is nothing behind it in this state of the database.
async fn read_piece(
    connection: &mut SqliteConnection,
    feed: &Feed,
    cbor: Cbor,
    page: &mut FeedPage,
) -> Result<bool, sqlx::Error> {
    let (after, room) = (page.through(), page.room());
    let count = PIECE.min(room);
    let mut piece = changed_records::read(connection, after, count, cbor).await?;
    let last = piece.iter().map(|listed| listed.number).max();
    let is_end = (piece.len() as u64) < count;
    let through = match last {
        Some(last) if !is_end => last,
        _ => feed.last.max(after),
    };
    // One more than there is room for shows that the page ends before it.
    let accounts = read_accounts(connection, (after, through), room.saturating_add(1));
    piece.extend(accounts.await?);
    page.take(piece, through);
    Ok(is_end)
}

/// Reads the JSON of the records that were too large for their piece, each by itself.
async fn complete(
    connection: &mut SqliteConnection,
    rows: &mut [Listed],
) -> Result<(), sqlx::Error> {
    for listed in rows.iter_mut().filter(|listed| listed.lacks_json) {
        if let Some(ChangedRow::Record(record)) = &mut listed.row {
            record.record = changed_records::read_json(connection, listed.number).await?;
        }
    }
    Ok(())
}

/// Reads the CBOR of rows, which are in the order of their numbers.
async fn read_cbor(
    connection: &mut SqliteConnection,
    (after, through): (u64, u64),
    rows: &mut [Listed],
) -> Result<(), sqlx::Error> {
    let all: Vec<(i64, Vec<u8>)> = sqlx::query_as(CBOR)
        .bind(integer(after))
        .bind(integer(through))
        .fetch_all(connection)
        .await?;
    for (number, cbor) in all {
        let number = number.unsigned_abs();
        let place = rows.binary_search_by_key(&number, |listed| listed.number);
        let listed = place.ok().and_then(|place| rows.get_mut(place));
        if let Some(ChangedRow::Record(record)) = listed.and_then(|listed| listed.row.as_mut()) {
            record.record_cbor = Some(cbor.into());
        }
    }
    Ok(())
}

/// The accounts between two numbers, the first `most` of them.
async fn read_accounts(
    connection: &mut SqliteConnection,
    (after, through): (u64, u64),
    most: u64,
) -> Result<Vec<Listed>, sqlx::Error> {
    let rows: Vec<AccountColumns> = sqlx::query_as(ACCOUNTS)
        .bind(integer(after))
        .bind(integer(through))
        .bind(integer(most))
        .fetch_all(connection)
        .await?;
    let listed = rows.into_iter().map(|row| {
        let number = row.change.unsigned_abs();
        let row = ChangedRow::Account(Box::new(row.into()));
        Listed {
            number,
            bytes: row.bytes() as u64,
            row: Some(row),
            lacks_json: false,
        }
    });
    Ok(listed.collect())
}

impl From<AccountColumns> for ChangedAccount {
    fn from(row: AccountColumns) -> Self {
        Self {
            did: row.did.into(),
            is_active: row.active,
            status: row.status.map(ByteString::from),
            handle: row.handle.map(ByteString::from),
            handle_status: row.handle_status.into(),
            removed_at: row.removed_at.map(ByteString::from),
            removal_change: row.removal_change.map(i64::unsigned_abs),
            time: row.time.into(),
            updated_at: row.updated_at.into(),
        }
    }
}
