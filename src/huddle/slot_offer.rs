//! `com.huddle.slotOffer`: a host offers a time window. `store/sqlite/projections.rs` writes its row
//! to the table `offers_index`, which `migrations/` define.

use super::fields::{Fields, ProjectionError, required};
use crate::lexicon::DataValue;

pub(super) const COLLECTION: &str = "com.huddle.slotOffer";

/// The limit of the lexicon. Further tags are dropped; they only occur if validation is off.
const MAX_TAGS: usize = 32;
/// In characters. The lexicon has the same limit in bytes.
const MAX_TAG_LENGTH: usize = 640;

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
    /// Each tag once, in the record's order.
    pub tags: Vec<String>,
    /// `open` if the record has no status.
    pub status: String,
    pub created_at: String,
}

pub(super) fn project<'a>(
    fields: Fields<impl DataValue<'a>>,
) -> Result<SlotOfferRow, ProjectionError> {
    let (starts_at, ends_at) = fields.window()?;
    Ok(SlotOfferRow {
        title: required("title", fields.text("title")?)?,
        description: fields.text("description")?,
        starts_at,
        ends_at,
        timezone: fields.text("timezone")?,
        duration_minutes: fields.integer("durationMinutes")?,
        capacity: fields.integer("capacity")?,
        location: fields.text("location")?,
        tags: tags(&fields)?,
        status: fields.text("status")?.unwrap_or_else(|| "open".to_owned()),
        created_at: required("createdAt", fields.datetime("createdAt")?)?,
    })
}

/// The first tags that are not empty, each once.
fn tags<'a>(fields: &Fields<impl DataValue<'a>>) -> Result<Vec<String>, ProjectionError> {
    let mut tags = Vec::new();
    fields.texts("tags", |text| {
        if tags.len() == MAX_TAGS {
            return;
        }
        let tag: String = text.trim().chars().take(MAX_TAG_LENGTH).collect();
        if !tag.is_empty() && !tags.contains(&tag) {
            tags.push(tag);
        }
    })?;
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn offer(changes: Value) -> Result<SlotOfferRow, ProjectionError> {
        let mut record = json!({
            "$type": COLLECTION,
            "title": "chess lesson",
            "startsAt": "2026-03-01T10:00:00+01:00",
            "endsAt": "2026-03-01T10:30:00Z",
            "createdAt": "2026-01-05T08:00:00.1234567Z",
        });
        for (field, value) in changes.as_object().unwrap() {
            record[field] = value.clone();
        }
        project(Fields::of(&record)?)
    }

    #[test]
    fn an_offer_becomes_a_row() {
        let row = offer(json!({
            "description": "two\nlines\u{202e}",
            "timezone": "Europe/Berlin",
            "durationMinutes": 30,
            "capacity": 2,
            "location": "Zoe\u{308}",
            "status": "unheard-of",
            "tags": ["chess", " chess ", "", "\u{0}", "yoga"],
            "price": {"amount": 3},
        }));

        assert_eq!(
            row,
            Ok(SlotOfferRow {
                title: "chess lesson".into(),
                description: Some("two\nlines".into()),
                starts_at: "2026-03-01T09:00:00.000Z".into(),
                ends_at: "2026-03-01T10:30:00.000Z".into(),
                timezone: Some("Europe/Berlin".into()),
                duration_minutes: Some(30),
                capacity: Some(2),
                location: Some("Zoë".into()),
                tags: vec!["chess".into(), "yoga".into()],
                status: "unheard-of".into(),
                created_at: "2026-01-05T08:00:00.123Z".into(),
            })
        );
    }

    #[test]
    fn an_offer_without_a_status_is_open() {
        assert_eq!(offer(json!({})).unwrap().status, "open");
    }

    #[test]
    fn an_offer_ends_after_it_starts_across_time_zones() {
        for (ends_at, is_after) in [
            ("2026-03-01T10:00:00.001+01:00", true),
            ("2026-03-01T10:00:00+01:00", false),
            ("2026-03-01T10:00:00.0009+01:00", false),
            ("2026-03-01T18:00:00+09:00", false),
            ("2026-03-01T04:30:00-05:00", true),
        ] {
            let row = offer(json!({ "endsAt": ends_at }));

            assert_eq!(
                row != Err(ProjectionError::EndsBeforeItStarts),
                is_after,
                "{ends_at}"
            );
        }
    }

    #[test]
    fn tags_are_capped_in_number_and_length() {
        let mut tags: Vec<String> = (0..100).map(|n| format!("tag {n}")).collect();
        tags[0] = "ß".repeat(5000);

        let row = offer(json!({ "tags": tags })).unwrap();

        assert_eq!(row.tags.len(), MAX_TAGS);
        assert_eq!(row.tags[0].chars().count(), MAX_TAG_LENGTH);
    }

    #[test]
    fn a_field_that_does_not_fit_is_named() {
        for (changes, error) in [
            (json!({"title": 42}), "title: is not a string"),
            (json!({"title": null}), "title: is not a string"),
            (json!({"capacity": "many"}), "capacity: is not an integer"),
            (json!({"capacity": 1.5}), "capacity: is not an integer"),
            (
                json!({"tags": ["a", 1]}),
                "tags: is not an array of strings",
            ),
            (
                json!({"startsAt": "0000-03-01T10:00:00Z"}),
                "startsAt: is not a datetime between the years 1 and 9999",
            ),
        ] {
            assert_eq!(offer(changes).unwrap_err().to_string(), error);
        }
        assert_eq!(
            project(Fields::of(&json!({})).unwrap()),
            Err(ProjectionError::Missing { field: "startsAt" })
        );
    }
}
