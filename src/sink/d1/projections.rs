//! The rows of `offers_index`, `booking_requests` and `bookings`. They follow the records.

use serde::Serialize;
use serde_json::Value;

use super::records::{Key, written};
use super::statement::{Statement, push_rows};
use crate::huddle::{BookingRequestRow, BookingRow, Projection, SlotOfferRow};
use crate::model::{Change, ChangedRecord, Feed};
use crate::sink::SinkError;
use crate::sink::projected::projection;

const REMOVE: [&str; 3] = [
    concat!(
        "DELETE FROM offers_index WHERE uri IN (SELECT records.uri ",
        written!(),
        ")"
    ),
    concat!(
        "DELETE FROM booking_requests WHERE uri IN (SELECT records.uri ",
        written!(),
        ")"
    ),
    concat!(
        "DELETE FROM bookings WHERE uri IN (SELECT records.uri ",
        written!(),
        ")"
    ),
];

/// Writes a table whose first columns are those of the record.
macro_rules! insert {
    ($table:literal, $first:literal $(, $column:literal)*) => {
        concat!(
            "INSERT INTO ", $table, " (uri, did, rkey, cid, rev, indexed_at, ",
            $first, $(", ", $column,)*
            ") SELECT records.uri, records.did, records.rkey, records.cid, records.rev, \
             records.last_indexed_at, ",
            "item.value ->> '", $first, "'", $(", item.value ->> '", $column, "'",)* " ",
            written!(),
            "WHERE true ON CONFLICT (uri) DO UPDATE SET did = excluded.did, rkey = excluded.rkey, \
             cid = excluded.cid, rev = excluded.rev, indexed_at = excluded.indexed_at, ",
            $first, " = excluded.", $first, $(", ", $column, " = excluded.", $column,)* ""
        )
    };
}

const OFFERS: &str = insert!(
    "offers_index",
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
    "created_at"
);

const REQUESTS: &str = insert!(
    "booking_requests",
    "offer_uri",
    "offer_cid",
    "note",
    "requested_start",
    "status",
    "created_at"
);

const BOOKINGS: &str = insert!(
    "bookings",
    "offer_uri",
    "offer_cid",
    "request_uri",
    "request_cid",
    "starts_at",
    "ends_at",
    "status",
    "created_at"
);

#[derive(Serialize)]
struct Offer<'a> {
    #[serde(flatten)]
    key: Key<'a>,
    title: String,
    description: Option<String>,
    starts_at: String,
    ends_at: String,
    timezone: Option<String>,
    duration_minutes: Option<i64>,
    capacity: Option<i64>,
    location: Option<String>,
    /// As text: a JSON array.
    tags: String,
    status: String,
    created_at: String,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(flatten)]
    key: Key<'a>,
    offer_uri: String,
    offer_cid: String,
    note: Option<String>,
    requested_start: Option<String>,
    status: String,
    created_at: String,
}

#[derive(Serialize)]
struct Booking<'a> {
    #[serde(flatten)]
    key: Key<'a>,
    offer_uri: String,
    offer_cid: String,
    request_uri: Option<String>,
    request_cid: Option<String>,
    starts_at: String,
    ends_at: String,
    status: String,
    created_at: String,
}

/// Adds what makes the projections of `changes` equal to the records that are written.
pub(super) fn write(
    batch: &mut Vec<Statement>,
    feed: &Feed,
    changes: &[(&Change, &ChangedRecord)],
    purged_before: &str,
) -> Result<(), SinkError> {
    let (mut offers, mut requests, mut bookings) = (Vec::new(), Vec::new(), Vec::new());
    let mut removed = Vec::new();
    for (change, record) in changes {
        let key = Key::of(change, record);
        match projection(record, purged_before) {
            Some(Projection::Booking(row)) => bookings.push(booking(key, row)),
            Some(Projection::BookingRequest(row)) => requests.push(request(key, row)),
            Some(Projection::SlotOffer(row)) => offers.push(offer(key, row)),
            None if record.collection.starts_with("com.huddle.") => removed.push(key),
            None => {}
        }
    }
    let id = feed.id.as_str();
    for remove in REMOVE {
        push_rows(batch, remove, id, removed.iter().copied())?;
    }
    push_rows(batch, OFFERS, id, offers)?;
    push_rows(batch, REQUESTS, id, requests)?;
    push_rows(batch, BOOKINGS, id, bookings)
}

fn offer(key: Key<'_>, row: SlotOfferRow) -> Offer<'_> {
    let tags = Value::from_iter(row.tags);
    Offer {
        key,
        title: row.title,
        description: row.description,
        starts_at: row.starts_at,
        ends_at: row.ends_at,
        timezone: row.timezone,
        duration_minutes: row.duration_minutes,
        capacity: row.capacity,
        location: row.location,
        tags: tags.to_string(),
        status: row.status,
        created_at: row.created_at,
    }
}

fn request(key: Key<'_>, row: BookingRequestRow) -> Request<'_> {
    Request {
        key,
        offer_uri: row.offer_uri,
        offer_cid: row.offer_cid,
        note: row.note,
        requested_start: row.requested_start,
        status: row.status,
        created_at: row.created_at,
    }
}

fn booking(key: Key<'_>, row: BookingRow) -> Booking<'_> {
    Booking {
        key,
        offer_uri: row.offer_uri,
        offer_cid: row.offer_cid,
        request_uri: row.request_uri,
        request_cid: row.request_cid,
        starts_at: row.starts_at,
        ends_at: row.ends_at,
        status: row.status,
        created_at: row.created_at,
    }
}
