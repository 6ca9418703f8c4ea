//! Where the change feed stood, once a minute, so that a sink can be set back by a time.

use jiff::Timestamp;

use super::SqliteStore;
use super::script::{Script, Value};
use crate::store::{StoreError, sortable};

/// Appends the statement that notes where the feed stands, unless there is a note from after `recent`, or
/// nothing was written since.
pub(super) fn push_mark(script: &mut Script, now: &str, recent: Value) {
    script.push(
        "INSERT OR IGNORE INTO feed_marks (change, marked_at) SELECT last, ? FROM change_feed \
         WHERE last > 0 AND NOT EXISTS ( \
         SELECT 1 FROM feed_marks WHERE marked_at > ? AND marked_at <= ?)",
        [now.into(), recent, now.into()],
    );
}

/// Appends the statement that deletes the notes from before `oldest`.
pub(super) fn push_purge(script: &mut Script, oldest: Value) {
    script.push("DELETE FROM feed_marks WHERE marked_at < ?", [oldest]);
}

impl SqliteStore {
    /// The last change that was noted at `time` or earlier: what was written later comes behind it. 0, which
    /// is before everything, if no note is that old.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn last_change_before(&self, time: Timestamp) -> Result<u64, StoreError> {
        let change: Option<i64> =
            sqlx::query_scalar("SELECT max(change) FROM feed_marks WHERE marked_at <= ?")
                .bind(sortable(time))
                .fetch_one(self.reader())
                .await?;
        Ok(change.unwrap_or_default().unsigned_abs())
    }
}
