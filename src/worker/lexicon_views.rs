//! Brings the views of lexicons up to date.

use crate::lexicon::TypedView;
use crate::store::StoreError;
use crate::store::sqlite::{SqliteStore, ViewChanges};

/// Makes the database have `views`, and tells what changed.
///
/// # Errors
/// If the database refuses them, or something else has the name of one.
pub async fn make_views(store: &SqliteStore, views: &[TypedView]) -> Result<(), StoreError> {
    let ViewChanges {
        made,
        dropped,
        made_indexes,
        dropped_indexes,
    } = store.make_views(views).await?;
    if !made.is_empty() {
        tracing::info!(views = made.join(", "), "made the views of lexicons");
    }
    if !dropped.is_empty() {
        tracing::info!(
            views = dropped.join(", "),
            "dropped the views whose lexicons are gone"
        );
    }
    if !made_indexes.is_empty() {
        let indexes = made_indexes.join(", ");
        tracing::info!(indexes, "made the indexes on columns that have changed");
    }
    if !dropped_indexes.is_empty() {
        let indexes = dropped_indexes.join(", ");
        tracing::warn!(indexes, "dropped the indexes on columns that are gone");
    }
    Ok(())
}
