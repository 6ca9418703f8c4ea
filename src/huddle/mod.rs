//! The three record types of Huddle, and the rows that discovery and matching read.

use serde_json::Value;

/// The row that a record becomes. Text in it is sanitized, datetimes are UTC and sort as text
/// (`YYYY-MM-DDTHH:MM:SS.sssZ`).
#[derive(Clone, Debug, PartialEq)]
pub enum Projection {
    Booking(BookingRow),
    BookingRequest(BookingRequestRow),
    SlotOffer(SlotOfferRow),
}

/// `com.huddle.slotOffer`
#[derive(Clone, Debug, PartialEq)]
pub struct SlotOfferRow {
    pub title: String,
    pub description: Option<String>,
    pub starts_at: String,
    pub ends_at: String,
    pub timezone: Option<String>,
    pub duration_minutes: Option<i64>,
    pub capacity: Option<i64>,
    pub location: Option<String>,
    pub tags: Vec<String>,
    /// `open` where the record names none.
    pub status: String,
    pub created_at: String,
}

/// `com.huddle.bookingRequest`
#[derive(Clone, Debug, PartialEq)]
pub struct BookingRequestRow {
    pub offer_uri: String,
    pub offer_cid: String,
    pub note: Option<String>,
    pub requested_start: Option<String>,
    pub status: String,
    pub created_at: String,
}

/// `com.huddle.booking`
#[derive(Clone, Debug, PartialEq)]
pub struct BookingRow {
    pub offer_uri: String,
    pub offer_cid: String,
    pub request_uri: Option<String>,
    pub request_cid: Option<String>,
    pub starts_at: String,
    pub ends_at: String,
    pub status: String,
    pub created_at: String,
}

/// The row of a record; `Ok(None)` where its collection has no table of its own.
///
/// # Errors
/// Says in words what keeps the record from becoming a row.
pub fn project(_collection: &str, _record: &Value) -> Result<Option<Projection>, String> {
    Ok(None)
}
