//! Projections: the rows that the service reads for discovery and matching. They follow the
//! records: only a change that was accepted for `records` comes here, so they need no guard of
//! their own.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::multi_row::MultiRow;
use super::script::{Script, Value, json_array};
use crate::huddle::{BookingRequestRow, BookingRow, Projection, SlotOfferRow};
use crate::store::plan::effect::RecordUpsert;
use crate::store::plan::{RecordRow, RecordWrite};

/// The columns are in the order of the values of [`push_offer`].
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

/// A record and its projection.
struct Projected<'a, T> {
    uri: &'a str,
    upsert: &'a RecordUpsert,
    row: &'a T,
    indexed_at: &'a str,
}

impl<'a, T> Projected<'a, T> {
    fn of(uri: &'a str, upsert: &'a RecordUpsert, row: &'a T, indexed_at: &'a str) -> Self {
        Self {
            uri,
            upsert,
            row,
            indexed_at,
        }
    }
}

/// Appends the statements that make the projections of `records` equal to them.
pub(super) fn push(script: &mut Script, records: &BTreeMap<String, RecordRow<'_>>, now: &str) {
    let mut offers = Vec::new();
    let mut requests = Vec::new();
    let mut bookings = Vec::new();
    let mut removed = Vec::new();
    for (uri, row) in records {
        let uri = uri.as_str();
        let RecordWrite::Upsert(upsert) = row.write else {
            removed.push(uri);
            continue;
        };
        let indexed_at = row.indexed_at.unwrap_or(now);
        match upsert.projection.as_deref() {
            Some(Projection::Booking(row)) => {
                bookings.push(Projected::of(uri, upsert, row, indexed_at));
            }
            Some(Projection::BookingRequest(row)) => {
                requests.push(Projected::of(uri, upsert, row, indexed_at));
            }
            Some(Projection::SlotOffer(row)) => {
                offers.push(Projected::of(uri, upsert, row, indexed_at));
            }
            None => removed.push(uri),
        }
    }
    insert(script, &OFFERS, &offers, push_offer);
    insert(script, &BOOKING_REQUESTS, &requests, push_request);
    insert(script, &BOOKINGS, &bookings, push_booking);
    if !removed.is_empty() {
        let uris = json_array(removed);
        for statement in REMOVE {
            script.push(statement, [uris.clone()]);
        }
    }
}

fn insert<T>(
    script: &mut Script,
    insert: &'static MultiRow,
    rows: &[Projected<'_, T>],
    push: fn(&mut Vec<Value>, &T),
) {
    script.push_rows(insert, rows, |projected, values| {
        let version = &projected.upsert.version;
        values.extend([
            projected.uri.into(),
            version.did.as_str().into(),
            version.rkey.as_str().into(),
            projected.upsert.cid.to_string().into(),
            version.rev.as_str().into(),
            projected.indexed_at.into(),
        ]);
        push(values, projected.row);
    });
}

fn push_offer(values: &mut Vec<Value>, row: &SlotOfferRow) {
    values.extend([
        row.title.as_str().into(),
        row.description.as_deref().into(),
        row.starts_at.as_str().into(),
        row.ends_at.as_str().into(),
        row.timezone.as_deref().into(),
        row.duration_minutes.into(),
        row.capacity.into(),
        row.location.as_deref().into(),
        json_array(row.tags.iter().map(String::as_str)),
        row.status.as_str().into(),
        row.created_at.as_str().into(),
    ]);
}

fn push_request(values: &mut Vec<Value>, row: &BookingRequestRow) {
    values.extend([
        row.offer_uri.as_str().into(),
        row.offer_cid.as_str().into(),
        row.note.as_deref().into(),
        row.requested_start.as_deref().into(),
        row.status.as_str().into(),
        row.created_at.as_str().into(),
    ]);
}

fn push_booking(values: &mut Vec<Value>, row: &BookingRow) {
    values.extend([
        row.offer_uri.as_str().into(),
        row.offer_cid.as_str().into(),
        row.request_uri.as_deref().into(),
        row.request_cid.as_deref().into(),
        row.starts_at.as_str().into(),
        row.ends_at.as_str().into(),
        row.status.as_str().into(),
        row.created_at.as_str().into(),
    ]);
}
