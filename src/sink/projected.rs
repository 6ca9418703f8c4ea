//! The row of a record in a table of its own, made from the record's JSON as the worker made it from the
//! signed bytes.

use serde_json::Value;

use crate::huddle::{Projection, project};
use crate::model::{ChangedRecord, Validity};

/// Statuses of booking requests that have ended. They are purged by age.
const ENDED: [&str; 3] = ["cancelled", "completed", "declined"];

/// The projection of a record. `None` for a tombstone, an invalid record, one without a table, and a
/// booking request that ended before `purged_before`, which is text that sorts.
pub(super) fn projection(record: &ChangedRecord, purged_before: &str) -> Option<Projection> {
    let json = record.record.as_deref()?;
    let invalid = Validity::Invalid {
        reason: String::new(),
    };
    if record.validity.as_deref() == Some(invalid.as_str()) || !has_table(&record.collection) {
        return None;
    }
    let value: Value = serde_json::from_str(json).ok()?;
    let projection = project(&record.collection, &value).ok()??;
    if let Projection::BookingRequest(request) = &projection {
        let has_ended = ENDED.contains(&request.status.as_str());
        if has_ended && &*record.last_indexed_at < purged_before {
            return None;
        }
    }
    Some(projection)
}

/// Most records have none, and are not parsed.
fn has_table(collection: &str) -> bool {
    collection.starts_with("com.huddle.")
}
