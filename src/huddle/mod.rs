//! The three record types of Huddle, and the rows that discovery and matching read.

mod booking;
mod booking_request;
mod fields;
mod slot_offer;

pub use booking::BookingRow;
pub use booking_request::BookingRequestRow;
pub use fields::ProjectionError;
pub use slot_offer::SlotOfferRow;

use fields::Fields;

use crate::lexicon::DataValue;

/// The version of the conversion from records to rows. It is raised with every change of a row's
/// content, so that a replay or a fetch makes the rows anew.
pub const PROJECTION_VERSION: &str = "1";

/// The row of a record. Its text is sanitized. Its datetimes are UTC text that sorts
/// (`YYYY-MM-DDTHH:MM:SS.sssZ`).
#[derive(Clone, Debug, PartialEq)]
pub enum Projection {
    Booking(BookingRow),
    BookingRequest(BookingRequestRow),
    SlotOffer(SlotOfferRow),
}

/// Converts a record to its row; `Ok(None)` if its collection has no table of its own.
///
/// It does not rely on the lexicon, so it also works if validation is off. It checks more than a
/// lexicon can express: the end is after the start, references are well-formed, and years are in
/// the range that SQL supports.
///
/// # Errors
/// The reason why the record cannot become a row.
pub fn project<'a>(
    collection: &str,
    record: impl DataValue<'a>,
) -> Result<Option<Projection>, ProjectionError> {
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
