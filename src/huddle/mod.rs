//! The three record types of Huddle, and the rows that discovery and matching read.

mod booking;
mod booking_request;
mod fields;
mod slot_offer;

use serde_json::Value;

pub use booking::BookingRow;
pub use booking_request::BookingRequestRow;
pub use fields::ProjectionError;
pub use slot_offer::SlotOfferRow;

use fields::Fields;

/// The row that a record becomes. Text in it is sanitized, datetimes are UTC and sort as text
/// (`YYYY-MM-DDTHH:MM:SS.sssZ`).
#[derive(Clone, Debug, PartialEq)]
pub enum Projection {
    Booking(BookingRow),
    BookingRequest(BookingRequestRow),
    SlotOffer(SlotOfferRow),
}

/// The row of a record; `Ok(None)` where its collection has no table of its own.
///
/// Relies on no lexicon, so that it can be asked where validation is off. It asks for more than
/// the lexicon can say: an end after its start, references that can be followed, and years that
/// SQL knows.
///
/// # Errors
/// Says what keeps the record from becoming a row.
pub fn project(collection: &str, record: &Value) -> Result<Option<Projection>, ProjectionError> {
    let projection = match collection {
        booking::COLLECTION => Projection::Booking(booking::project(Fields::of(record)?)?),
        booking_request::COLLECTION => {
            Projection::BookingRequest(booking_request::project(Fields::of(record)?)?)
        }
        slot_offer::COLLECTION => Projection::SlotOffer(slot_offer::project(Fields::of(record)?)?),
        _ => return Ok(None),
    };
    Ok(Some(projection))
}
