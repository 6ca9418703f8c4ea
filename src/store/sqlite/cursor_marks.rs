//! Where the cursor of each source stood, once a minute, so that it can be moved back by a time. The
//! change feed is noted with them.

use jiff::{SignedDuration, Timestamp};

use super::script::Script;
use super::{SqliteStore, cursor, feed_marks, integer, timely};
use crate::model::{CursorMark, Position, SourceId};
use crate::store::StoreError;
use crate::store::datetime::sortable;

/// The shortest time between two marks of a source.
const SPACING: SignedDuration = SignedDuration::from_secs(60);
/// A little less, so that a mark that comes a moment early is not left out.
const LEEWAY: SignedDuration = SignedDuration::from_secs(5);

/// Appends the statement that deletes the marks of what comes after `position`: they belong to a sequence
/// that is over, or that is read once more.
pub(super) fn push_void(script: &mut Script, source: &SourceId, position: Position) {
    script.push(
        "DELETE FROM cursor_marks WHERE source = ? AND seq > ?",
        [source.as_str().into(), position.seq.into()],
    );
}

impl SqliteStore {
    /// Notes where each cursor and the change feed stand, if the last note is a minute old, and deletes the
    /// notes that are older than `window`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn mark_positions(
        &self,
        now: Timestamp,
        window: std::time::Duration,
    ) -> Result<(), StoreError> {
        let before = |time: SignedDuration| sortable(now.saturating_sub(time).unwrap_or(now));
        let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
        let oldest = now.saturating_sub(window).unwrap_or(Timestamp::MIN);
        timely(async {
            let mut script = Script::default();
            script.push(
                "INSERT OR IGNORE INTO cursor_marks (source, seq, event_time, marked_at) \
                 SELECT source, CAST(cursor AS INTEGER), event_time, ? FROM firehose_cursor \
                 WHERE source IS NOT NULL AND CAST(cursor AS INTEGER) > 0 AND NOT EXISTS ( \
                 SELECT 1 FROM cursor_marks AS marks WHERE marks.source = firehose_cursor.source \
                 AND marks.marked_at > ? AND marks.marked_at <= ?)",
                [
                    sortable(now).into(),
                    before(SPACING - LEEWAY).into(),
                    sortable(now).into(),
                ],
            );
            script.push(
                "DELETE FROM cursor_marks WHERE marked_at < ?",
                [sortable(oldest).into()],
            );
            feed_marks::push_mark(&mut script, &sortable(now), before(SPACING - LEEWAY).into());
            feed_marks::push_purge(&mut script, sortable(oldest).into());
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// The newest mark below `seq` whose event is not later than `time`; the oldest one if none is that
    /// old. `None` if there is no mark below `seq`.
    ///
    /// # Errors
    /// If the database fails, or a mark cannot be read.
    pub async fn cursor_mark(
        &self,
        source: &SourceId,
        seq: u64,
        time: Timestamp,
    ) -> Result<Option<CursorMark>, StoreError> {
        let mark: Option<(i64, Option<String>, String, bool)> = sqlx::query_as(
            "SELECT seq, event_time, marked_at, \
             unixepoch(coalesce(event_time, marked_at), 'subsec') <= unixepoch(?3, 'subsec') AS is_old \
             FROM cursor_marks WHERE source = ?1 AND seq < ?2 \
             ORDER BY is_old DESC, iif(is_old, -seq, seq) LIMIT 1",
        )
        .bind(source.as_str())
        .bind(integer(seq))
        .bind(sortable(time))
        .fetch_optional(self.reader())
        .await?;
        let Some((seq, event_time, marked_at, is_old_enough)) = mark else {
            return Ok(None);
        };
        Ok(Some(CursorMark {
            position: cursor::position(&seq.to_string(), event_time.as_deref())?,
            marked_at,
            is_old_enough,
        }))
    }
}
