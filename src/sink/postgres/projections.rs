//! The rows of `offers_index`, `booking_requests` and `bookings`. They follow the records.

use sqlx::postgres::PgConnection;

use super::accounts::column;
use crate::huddle::{BookingRequestRow, BookingRow, Projection, SlotOfferRow};
use crate::model::ChangedRecord;
use crate::sink::SinkError;
use crate::sink::projected::projection;

/// Rows that one transaction purges.
const CHUNK: u64 = 1000;

const PURGE: &str = "DELETE FROM booking_requests WHERE uri IN (SELECT uri FROM booking_requests \
     WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at < $1::text::timestamptz \
     LIMIT 1000)";

const REMOVE: &str = "WITH item AS (SELECT uri FROM UNNEST($1::text[]) AS item (uri)), \
     offers AS (DELETE FROM offers_index USING item WHERE offers_index.uri = item.uri), \
     requests AS (DELETE FROM booking_requests USING item WHERE booking_requests.uri = item.uri) \
     DELETE FROM bookings USING item WHERE bookings.uri = item.uri";

/// The first columns of each table, of the record.
macro_rules! insert {
    ($table:literal, $columns:literal, $values:literal, $types:literal, $updates:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (uri, did, rkey, cid, rev, indexed_at, ",
            $columns,
            ") SELECT uri, did, rkey, cid, rev, indexed_at::timestamptz, ",
            $values,
            " FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], ",
            $types,
            ") AS item (uri, did, rkey, cid, rev, indexed_at, ",
            $columns,
            ") ON CONFLICT (uri) DO UPDATE SET did = excluded.did, rkey = excluded.rkey, \
             cid = excluded.cid, rev = excluded.rev, indexed_at = excluded.indexed_at, ",
            $updates
        )
    };
}

const OFFERS: &str = insert!(
    "offers_index",
    "title, description, starts_at, ends_at, timezone, duration_minutes, capacity, location, tags, \
     status, created_at",
    "title, description, starts_at::timestamptz, ends_at::timestamptz, timezone, duration_minutes, \
     capacity, location, tags::jsonb, status, created_at::timestamptz",
    "$7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], \
     $14::text[], $15::text[], $16::text[], $17::text[]",
    "title = excluded.title, description = excluded.description, starts_at = excluded.starts_at, \
     ends_at = excluded.ends_at, timezone = excluded.timezone, \
     duration_minutes = excluded.duration_minutes, capacity = excluded.capacity, \
     location = excluded.location, tags = excluded.tags, status = excluded.status, \
     created_at = excluded.created_at"
);

const REQUESTS: &str = insert!(
    "booking_requests",
    "offer_uri, offer_cid, note, requested_start, status, created_at",
    "offer_uri, offer_cid, note, requested_start::timestamptz, status, created_at::timestamptz",
    "$7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[]",
    "offer_uri = excluded.offer_uri, offer_cid = excluded.offer_cid, note = excluded.note, \
     requested_start = excluded.requested_start, status = excluded.status, \
     created_at = excluded.created_at"
);

const BOOKINGS: &str = insert!(
    "bookings",
    "offer_uri, offer_cid, request_uri, request_cid, starts_at, ends_at, status, created_at",
    "offer_uri, offer_cid, request_uri, request_cid, starts_at::timestamptz, ends_at::timestamptz, \
     status, created_at::timestamptz",
    "$7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], \
     $14::text[]",
    "offer_uri = excluded.offer_uri, offer_cid = excluded.offer_cid, \
     request_uri = excluded.request_uri, request_cid = excluded.request_cid, \
     starts_at = excluded.starts_at, ends_at = excluded.ends_at, status = excluded.status, \
     created_at = excluded.created_at"
);

type Rows<'a, T> = Vec<(&'a ChangedRecord, T)>;

/// Makes the projections of `records` equal to them.
pub(super) async fn write(
    connection: &mut PgConnection,
    records: &[&ChangedRecord],
    purged_before: &str,
) -> Result<(), SinkError> {
    let (mut offers, mut requests, mut bookings) = (Vec::new(), Vec::new(), Vec::new());
    let mut removed = Vec::new();
    for record in records {
        match projection(record, purged_before) {
            Some(Projection::Booking(row)) => bookings.push((*record, row)),
            Some(Projection::BookingRequest(row)) => requests.push((*record, row)),
            Some(Projection::SlotOffer(row)) => offers.push((*record, row)),
            None if record.collection.starts_with("com.huddle.") => {
                removed.push(&*record.uri);
            }
            None => {}
        }
    }
    if !removed.is_empty() {
        let statement = sqlx::query(REMOVE).bind(removed).persistent(false);
        statement.execute(&mut *connection).await?;
    }
    write_offers(connection, &offers).await?;
    write_requests(connection, &requests).await?;
    write_bookings(connection, &bookings).await
}

/// Deletes ended booking requests that were written before `limit`. Returns whether there may be more.
pub(super) async fn purge(connection: &mut PgConnection, limit: &str) -> Result<bool, SinkError> {
    let purge = sqlx::query(PURGE).bind(limit).persistent(false);
    let purged = purge.execute(connection).await?.rows_affected();
    Ok(purged >= CHUNK)
}

/// Binds the columns that all tables have.
macro_rules! of_records {
    ($statement:expr, $rows:expr) => {
        sqlx::query($statement)
            .bind(column($rows, |(record, _)| &*record.uri))
            .bind(column($rows, |(record, _)| &*record.did))
            .bind(column($rows, |(record, _)| &*record.rkey))
            .bind(column($rows, |(record, _)| record.cid.as_deref()))
            .bind(column($rows, |(record, _)| &*record.rev))
            .bind(column($rows, |(record, _)| &*record.last_indexed_at))
    };
}

async fn write_offers(
    connection: &mut PgConnection,
    rows: &Rows<'_, SlotOfferRow>,
) -> Result<(), SinkError> {
    if rows.is_empty() {
        return Ok(());
    }
    let tags =
        |row: &SlotOfferRow| serde_json::Value::from_iter(row.tags.iter().map(String::as_str));
    of_records!(OFFERS, rows)
        .bind(column(rows, |(_, row)| row.title.as_str()))
        .bind(column(rows, |(_, row)| row.description.as_deref()))
        .bind(column(rows, |(_, row)| row.starts_at.as_str()))
        .bind(column(rows, |(_, row)| row.ends_at.as_str()))
        .bind(column(rows, |(_, row)| row.timezone.as_deref()))
        .bind(column(rows, |(_, row)| row.duration_minutes))
        .bind(column(rows, |(_, row)| row.capacity))
        .bind(column(rows, |(_, row)| row.location.as_deref()))
        .bind(column(rows, |(_, row)| tags(row).to_string()))
        .bind(column(rows, |(_, row)| row.status.as_str()))
        .bind(column(rows, |(_, row)| row.created_at.as_str()))
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_requests(
    connection: &mut PgConnection,
    rows: &Rows<'_, BookingRequestRow>,
) -> Result<(), SinkError> {
    if rows.is_empty() {
        return Ok(());
    }
    of_records!(REQUESTS, rows)
        .bind(column(rows, |(_, row)| row.offer_uri.as_str()))
        .bind(column(rows, |(_, row)| row.offer_cid.as_str()))
        .bind(column(rows, |(_, row)| row.note.as_deref()))
        .bind(column(rows, |(_, row)| row.requested_start.as_deref()))
        .bind(column(rows, |(_, row)| row.status.as_str()))
        .bind(column(rows, |(_, row)| row.created_at.as_str()))
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_bookings(
    connection: &mut PgConnection,
    rows: &Rows<'_, BookingRow>,
) -> Result<(), SinkError> {
    if rows.is_empty() {
        return Ok(());
    }
    of_records!(BOOKINGS, rows)
        .bind(column(rows, |(_, row)| row.offer_uri.as_str()))
        .bind(column(rows, |(_, row)| row.offer_cid.as_str()))
        .bind(column(rows, |(_, row)| row.request_uri.as_deref()))
        .bind(column(rows, |(_, row)| row.request_cid.as_deref()))
        .bind(column(rows, |(_, row)| row.starts_at.as_str()))
        .bind(column(rows, |(_, row)| row.ends_at.as_str()))
        .bind(column(rows, |(_, row)| row.status.as_str()))
        .bind(column(rows, |(_, row)| row.created_at.as_str()))
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}
