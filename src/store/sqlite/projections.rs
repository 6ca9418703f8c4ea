//! The rows that discovery and matching read. They follow the records: only a change that the
//! table of records has accepted comes here, so they need no guard of their own.

use std::sync::LazyLock;

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};

use super::accounts::json_array;
use super::multi_row::MultiRow;
use crate::huddle::{BookingRequestRow, BookingRow, Projection, SlotOfferRow};
use crate::store::fold::RecordChange;
use crate::store::plan::effect::RecordUpsert;

static OFFERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "REPLACE INTO offers_index",
        &[
            "uri",
            "did",
            "rkey",
            "cid",
            "rev",
            "indexed_at",
            "title",
            "description",
            "starts_at",
            "ends_at",
            "timezone",
            "duration_minutes",
            "capacity",
            "location",
            "tags",
            "status",
            "created_at",
        ],
        "",
    )
});

static BOOKING_REQUESTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "REPLACE INTO booking_requests",
        &[
            "uri",
            "did",
            "rkey",
            "cid",
            "rev",
            "indexed_at",
            "offer_uri",
            "offer_cid",
            "note",
            "requested_start",
            "status",
            "created_at",
        ],
        "",
    )
});

static BOOKINGS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "REPLACE INTO bookings",
        &[
            "uri",
            "did",
            "rkey",
            "cid",
            "rev",
            "indexed_at",
            "offer_uri",
            "offer_cid",
            "request_uri",
            "request_cid",
            "starts_at",
            "ends_at",
            "status",
            "created_at",
        ],
        "",
    )
});

const REMOVE: [&str; 3] = [
    "DELETE FROM offers_index WHERE uri IN (SELECT value FROM json_each(?))",
    "DELETE FROM booking_requests WHERE uri IN (SELECT value FROM json_each(?))",
    "DELETE FROM bookings WHERE uri IN (SELECT value FROM json_each(?))",
];

type Statement = Query<'static, Sqlite, SqliteArguments>;

/// A record, and the row that it becomes.
struct Projected<'a, T> {
    uri: &'a str,
    upsert: &'a RecordUpsert,
    row: &'a T,
}

/// Brings the projections of the `accepted` changes in line with their records.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    accepted: &[(&str, RecordChange<'_>)],
    now: &str,
) -> Result<(), sqlx::Error> {
    let mut offers = Vec::new();
    let mut requests = Vec::new();
    let mut bookings = Vec::new();
    let mut removed = Vec::new();
    for (uri, change) in accepted.iter().copied() {
        let RecordChange::Upsert(upsert) = change else {
            removed.push(uri);
            continue;
        };
        match &upsert.projection {
            Some(Projection::Booking(row)) => bookings.push(Projected { uri, upsert, row }),
            Some(Projection::BookingRequest(row)) => requests.push(Projected { uri, upsert, row }),
            Some(Projection::SlotOffer(row)) => offers.push(Projected { uri, upsert, row }),
            None => removed.push(uri),
        }
    }
    insert(connection, &OFFERS, &offers, now, bind_offer).await?;
    insert(connection, &BOOKING_REQUESTS, &requests, now, bind_request).await?;
    insert(connection, &BOOKINGS, &bookings, now, bind_booking).await?;
    remove(connection, &removed).await
}

async fn insert<T>(
    connection: &mut SqliteConnection,
    insert: &'static MultiRow,
    rows: &[Projected<'_, T>],
    now: &str,
    bind: fn(Statement, &T) -> Statement,
) -> Result<(), sqlx::Error> {
    for (statement, chunk) in insert.cut(rows) {
        let mut query = sqlx::query(statement);
        for Projected { uri, upsert, row } in chunk {
            query = query
                .bind(*uri)
                .bind(upsert.version.did.as_str())
                .bind(upsert.version.rkey.as_str())
                .bind(upsert.cid.to_string())
                .bind(upsert.version.rev.as_str())
                .bind(now);
            query = bind(query, row);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn remove(connection: &mut SqliteConnection, uris: &[&str]) -> Result<(), sqlx::Error> {
    if uris.is_empty() {
        return Ok(());
    }
    let uris = json_array(uris.iter().copied());
    for statement in REMOVE {
        sqlx::query(statement)
            .bind(uris.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn bind_offer(query: Statement, row: &SlotOfferRow) -> Statement {
    query
        .bind(row.title.as_str())
        .bind(row.description.as_deref())
        .bind(row.starts_at.as_str())
        .bind(row.ends_at.as_str())
        .bind(row.timezone.as_deref())
        .bind(row.duration_minutes)
        .bind(row.capacity)
        .bind(row.location.as_deref())
        .bind(json_array(row.tags.iter().map(String::as_str)))
        .bind(row.status.as_str())
        .bind(row.created_at.as_str())
}

fn bind_request(query: Statement, row: &BookingRequestRow) -> Statement {
    query
        .bind(row.offer_uri.as_str())
        .bind(row.offer_cid.as_str())
        .bind(row.note.as_deref())
        .bind(row.requested_start.as_deref())
        .bind(row.status.as_str())
        .bind(row.created_at.as_str())
}

fn bind_booking(query: Statement, row: &BookingRow) -> Statement {
    query
        .bind(row.offer_uri.as_str())
        .bind(row.offer_cid.as_str())
        .bind(row.request_uri.as_deref())
        .bind(row.request_cid.as_deref())
        .bind(row.starts_at.as_str())
        .bind(row.ends_at.as_str())
        .bind(row.status.as_str())
        .bind(row.created_at.as_str())
}
