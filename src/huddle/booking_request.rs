//! `com.huddle.bookingRequest`: a guest requests a place in an offer.

use super::fields::{Fields, ProjectionError, required};
use crate::lexicon::DataValue;

pub(super) const COLLECTION: &str = "com.huddle.bookingRequest";

#[derive(Clone, Debug, PartialEq)]
pub struct BookingRequestRow {
    pub offer_uri: String,
    pub offer_cid: String,
    pub note: Option<String>,
    pub requested_start: Option<String>,
    pub status: String,
    pub created_at: String,
}

pub(super) fn project<'a>(
    fields: Fields<impl DataValue<'a>>,
) -> Result<BookingRequestRow, ProjectionError> {
    let offer = required("subject", fields.strong_ref("subject")?)?;
    Ok(BookingRequestRow {
        offer_uri: offer.uri,
        offer_cid: offer.cid,
        note: fields.text("note")?,
        requested_start: fields.datetime("requestedStart")?,
        status: required("status", fields.text("status")?)?,
        created_at: required("createdAt", fields.datetime("createdAt")?)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const URI: &str = "at://did:plc:abc/com.huddle.slotOffer/slot:1";
    const CID: &str = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq";

    fn request(subject: Value) -> Result<BookingRequestRow, ProjectionError> {
        let record = json!({
            "subject": subject,
            "note": "please\u{7}",
            "requestedStart": "2026-03-01T10:00:00-03:00",
            "status": "pending",
            "createdAt": "2026-01-05T08:00:00Z",
        });
        project(Fields::of(&record)?)
    }

    #[test]
    fn a_request_becomes_a_row() {
        assert_eq!(
            request(json!({"uri": URI, "cid": CID})),
            Ok(BookingRequestRow {
                offer_uri: URI.into(),
                offer_cid: CID.into(),
                note: Some("please".into()),
                requested_start: Some("2026-03-01T13:00:00.000Z".into()),
                status: "pending".into(),
                created_at: "2026-01-05T08:00:00.000Z".into(),
            })
        );
    }

    #[test]
    fn a_subject_is_a_record_and_a_cid() {
        for subject in [
            json!({"uri": URI, "cid": "bafyNOPE"}),
            json!({"uri": URI}),
            json!({"uri": "at://did:plc:abc/com.huddle.slotOffer", "cid": CID}),
            json!({"uri": "https://example.com/a/b", "cid": CID}),
            json!({"uri": 1, "cid": CID}),
        ] {
            let field = "subject";
            assert_eq!(request(subject), Err(ProjectionError::Reference { field }));
        }
    }
}
