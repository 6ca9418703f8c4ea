//! Reads the change feed.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use tokio::sync::watch;

use super::{SqliteStore, apply, feed, integer, sink_positions};
use crate::model::{
    Change, ChangedAccount, ChangedRecord, ChangedRow, DeadLetter, Epoch, Feed, FeedPosition,
    RandomId,
};
use crate::store::change_feed::{Cbor, ChangeFeed};
use crate::store::{ChangePage, PieceLimit, StoreError};

/// The first changes behind a number, and what they take in memory. The CBOR counts if it is wanted.
const KEYS: &str = "SELECT change, ?4 + bytes FROM ( \
     SELECT * FROM (SELECT change, 2 * octet_length(uri) + coalesce(octet_length(record), 0) \
     + iif(?3, coalesce(octet_length(record_cbor), 0), 0) AS bytes \
     FROM records WHERE change > ?1 ORDER BY change LIMIT ?2) \
     UNION ALL \
     SELECT * FROM (SELECT change, 0 AS bytes FROM accounts WHERE change > ?1 ORDER BY change LIMIT ?2)) \
     ORDER BY change LIMIT ?2";

/// Changes whose records are read as one value. So few stay in the processor's caches, and are no allocation
/// that the system has to make anew for each page.
const PIECE: usize = 128;

/// All records of a piece as one value, an array of [`RecordColumns`]: each value that SQLite hands out is a
/// copy with allocations of its own. Records that are being deleted with their account are gone already.
const RECORDS: &str = "SELECT json_group_array(json_array(change, uri, did, collection, rkey, cid, rev, \
     seq, source, time, record, validity, invalid_reason, refused_cid, verified, first_indexed_at, \
     last_indexed_at, EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = records.uri))) \
     FROM records WHERE change > ?1 AND change <= ?2 AND NOT EXISTS ( \
     SELECT 1 FROM removed_records \
     WHERE removed_records.did = records.did AND removed_records.uri = records.uri)";

const CBOR: &str = "SELECT change, record_cbor FROM records \
     WHERE change > ?1 AND change <= ?2 AND record_cbor IS NOT NULL";

/// A row that no event has set, such as one of a handle that is not known, has the time of its writing.
const ACCOUNTS: &str = "SELECT change, did, active, status, handle, handle_status, removed_at, removal_change, \
     coalesce(nullif(min(max(coalesce(as_of, ''), coalesce(handle_as_of, ''), \
     coalesce(hold_as_of, ''), coalesce(removed_at, '')), updated_at), ''), updated_at) AS time, \
     updated_at \
     FROM accounts WHERE change > ?1 AND change <= ?2";

/// In the order of [`RECORDS`].
#[derive(Deserialize)]
struct RecordColumns {
    change: u64,
    uri: String,
    did: String,
    collection: String,
    rkey: String,
    cid: Option<String>,
    rev: String,
    seq: u64,
    source: String,
    time: String,
    record: Option<String>,
    validity: Option<String>,
    invalid_reason: Option<String>,
    refused_cid: Option<String>,
    verified: String,
    first_indexed_at: String,
    last_indexed_at: String,
    /// 0 or 1.
    is_stale: u8,
}

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
        let Extent { through, pieces } = extent(&mut snapshot, &feed, after, limit, cbor).await?;
        let mut changes = BTreeMap::new();
        for piece in pieces {
            read_records(&mut snapshot, piece, &mut changes).await?;
        }
        if through > after {
            read_accounts(&mut snapshot, (after, through), &mut changes).await?;
            if cbor == Cbor::With {
                read_cbor(&mut snapshot, (after, through), &mut changes).await?;
            }
        }
        let epoch_of = |number| feed.epoch_of(number).cloned();
        let changes = changes.into_iter().filter_map(|(number, row)| {
            Some(Change {
                epoch: epoch_of(number)?,
                number,
                row,
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
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM records WHERE change > ?1 LIMIT ?2)) \
             + (SELECT count(*) FROM (SELECT 1 FROM accounts WHERE change > ?1 LIMIT ?2))",
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

/// What a page has.
struct Extent {
    /// The number up to which it goes.
    through: u64,
    /// Between which numbers its changes are, in pieces: behind the first one, and up to the second one.
    pieces: Vec<(u64, u64)>,
}

async fn extent(
    connection: &mut SqliteConnection,
    feed: &Feed,
    after: u64,
    limit: PieceLimit,
    cbor: Cbor,
) -> Result<Extent, sqlx::Error> {
    let keys: Vec<(i64, i64)> = sqlx::query_as(KEYS)
        .bind(integer(after))
        .bind(integer(limit.rows))
        .bind(cbor == Cbor::With)
        .bind(integer(ChangedRow::BYTES as u64))
        .fetch_all(connection)
        .await?;
    let mut bytes = 0;
    let mut numbers = Vec::with_capacity(keys.len());
    for (number, of_row) in &keys {
        bytes += of_row.unsigned_abs();
        if !numbers.is_empty() && bytes > limit.bytes {
            break;
        }
        numbers.push(number.unsigned_abs());
    }
    let is_full = numbers.len() < keys.len() || keys.len() as u64 >= limit.rows;
    let through = match numbers.last() {
        Some(last) if is_full => *last,
        // Nothing is behind it in this state of the database.
        _ => feed.last.max(after),
    };
    let ends = numbers.chunks(PIECE).filter_map(<[u64]>::last).copied();
    let begins = std::iter::once(after).chain(ends.clone());
    let pieces = begins.zip(ends).collect();
    Ok(Extent { through, pieces })
}

type Rows = BTreeMap<u64, ChangedRow>;

async fn read_records(
    connection: &mut SqliteConnection,
    (after, through): (u64, u64),
    into: &mut Rows,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query(RECORDS)
        .bind(integer(after))
        .bind(integer(through))
        .fetch_one(connection)
        .await?;
    let columns: Vec<RecordColumns> = serde_json::from_str(row.try_get(0)?)
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    into.extend(
        columns
            .into_iter()
            .map(|columns| (columns.change, columns.row())),
    );
    Ok(())
}

async fn read_cbor(
    connection: &mut SqliteConnection,
    (after, through): (u64, u64),
    into: &mut Rows,
) -> Result<(), sqlx::Error> {
    let all: Vec<(i64, Vec<u8>)> = sqlx::query_as(CBOR)
        .bind(integer(after))
        .bind(integer(through))
        .fetch_all(connection)
        .await?;
    for (number, cbor) in all {
        if let Some(ChangedRow::Record(record)) = into.get_mut(&number.unsigned_abs()) {
            record.record_cbor = Some(cbor.into());
        }
    }
    Ok(())
}

impl RecordColumns {
    fn row(self) -> ChangedRow {
        ChangedRow::Record(Box::new(ChangedRecord {
            uri: self.uri,
            did: self.did,
            collection: self.collection,
            rkey: self.rkey,
            cid: self.cid,
            rev: self.rev,
            seq: self.seq,
            source: self.source,
            time: self.time,
            record: self.record,
            record_cbor: None,
            validity: self.validity,
            invalid_reason: self.invalid_reason,
            refused_cid: self.refused_cid,
            verified: self.verified,
            first_indexed_at: self.first_indexed_at,
            last_indexed_at: self.last_indexed_at,
            is_stale: self.is_stale != 0,
        }))
    }
}

async fn read_accounts(
    connection: &mut SqliteConnection,
    (after, through): (u64, u64),
    into: &mut Rows,
) -> Result<(), sqlx::Error> {
    let rows: Vec<AccountColumns> = sqlx::query_as(ACCOUNTS)
        .bind(integer(after))
        .bind(integer(through))
        .fetch_all(connection)
        .await?;
    into.extend(rows.into_iter().map(|row| {
        let account = ChangedAccount {
            did: row.did,
            is_active: row.active,
            status: row.status,
            handle: row.handle,
            handle_status: row.handle_status,
            removed_at: row.removed_at,
            removal_change: row.removal_change.map(i64::unsigned_abs),
            time: row.time,
            updated_at: row.updated_at,
        };
        (
            row.change.unsigned_abs(),
            ChangedRow::Account(Box::new(account)),
        )
    }));
    Ok(())
}
