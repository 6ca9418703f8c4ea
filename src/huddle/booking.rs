//! `com.huddle.booking`: a confirmed appointment.

use super::fields::{Fields, ProjectionError, required};
use crate::lexicon::DataValue;

pub(super) const COLLECTION: &str = "com.huddle.booking";

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

pub(super) fn project<'a>(
    fields: Fields<impl DataValue<'a>>,
) -> Result<BookingRow, ProjectionError> {
    let offer = required("offer", fields.strong_ref("offer")?)?;
    let (request_uri, request_cid) = fields
        .strong_ref("request")?
        .map(|request| (request.uri, request.cid))
        .unzip();
    let (starts_at, ends_at) = fields.window()?;
    Ok(BookingRow {
        offer_uri: offer.uri,
        offer_cid: offer.cid,
        request_uri,
        request_cid,
        starts_at,
        ends_at,
        status: required("status", fields.text("status")?)?,
        created_at: required("createdAt", fields.datetime("createdAt")?)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CID: &str = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq";

    fn booking() -> Value {
        json!({
            "offer": {"uri": "at://did:plc:a/com.huddle.slotOffer/1", "cid": CID},
            "startsAt": "2026-03-01T10:00:00Z",
            "endsAt": "2026-03-01T10:30:00Z",
            "status": "confirmed",
            "createdAt": "2026-01-05T08:00:00Z",
        })
    }

    #[test]
    fn a_booking_may_answer_a_request_or_none() {
        let mut record = booking();
        let row = project(Fields::of(&record).unwrap()).unwrap();
        assert_eq!((row.request_uri, row.request_cid), (None, None));

        let uri = "at://did:plc:b/com.huddle.bookingRequest/2";
        record["request"] = json!({"uri": uri, "cid": CID});
        let row = project(Fields::of(&record).unwrap()).unwrap();
        assert_eq!(row.request_uri.as_deref(), Some(uri));
        assert_eq!(row.request_cid.as_deref(), Some(CID));
    }

    #[test]
    fn a_booking_ends_after_it_starts() {
        let mut record = booking();
        record["endsAt"] = record["startsAt"].clone();

        let row = project(Fields::of(&record).unwrap());

        assert_eq!(row, Err(ProjectionError::EndsBeforeItStarts));
    }
}
