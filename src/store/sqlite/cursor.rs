//! Each source's row of `firehose_cursor`.

use sqlx::sqlite::SqliteConnection;

use super::cursor_marks;
use super::script::Script;
use crate::model::{Position, SourceId};
use crate::store::{StoreError, StoredCursor};

/// Appends the statements that give `source` a row if it has none: the row 'main' if no source has
/// claimed it, otherwise a new one.
///
/// The row 'main' without a source is that of a new database, or of a version that knew one source
/// only. A source that has a row does not take it: its own cursor is what it has applied, and whose
/// seq is in 'main' is unknown.
pub(super) fn push_claim(script: &mut Script, source: &SourceId) {
    let id = source.as_str();
    script.push(
        "UPDATE firehose_cursor SET source = ? WHERE id = 'main' AND source IS NULL \
         AND NOT EXISTS (SELECT 1 FROM firehose_cursor WHERE source = ?)",
        [id.into(), id.into()],
    );
    script.push(
        "INSERT INTO firehose_cursor (id, cursor, source) SELECT ?, '0', ? \
         WHERE NOT EXISTS (SELECT 1 FROM firehose_cursor WHERE source = ?)",
        [id.into(), id.into(), id.into()],
    );
}

/// Reads the cursor of a source that has a row.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    source: &SourceId,
) -> Result<StoredCursor, StoreError> {
    let (cursor, event_time, moved): (String, Option<String>, bool) =
        sqlx::query_as("SELECT cursor, event_time, moved FROM firehose_cursor WHERE source = ?")
            .bind(source.as_str())
            .fetch_one(&mut *connection)
            .await?;
    let position = position(&cursor, event_time.as_deref())?;
    // An operator may have set the cursor by SQL, without the column `moved`.
    let is_new = !moved && position.seq == 0;
    Ok(StoredCursor {
        position,
        is_new,
        follows: match is_new {
            true => last_followed(connection, source).await?,
            false => None,
        },
    })
}

/// The source other than `source` whose cursor moved last. It may have been configured after
/// `source`, which was not reached then.
async fn last_followed(
    connection: &mut SqliteConnection,
    source: &SourceId,
) -> Result<Option<(SourceId, Position)>, StoreError> {
    let last: Option<(String, String, Option<String>)> = sqlx::query_as(
        "SELECT source, cursor, event_time FROM firehose_cursor \
         WHERE source <> ? AND CAST(cursor AS INTEGER) > 0 \
         ORDER BY updated_at DESC, rowid DESC LIMIT 1",
    )
    .bind(source.as_str())
    .fetch_optional(connection)
    .await?;
    let Some((last, cursor, event_time)) = last else {
        return Ok(None);
    };
    let position = position(&cursor, event_time.as_deref())?;
    Ok(Some((SourceId::new(&last), position)))
}

/// Appends the statements that move the cursor from `before` to `position`. It moves back only if
/// the source's sequence restarted.
pub(super) fn push_advance(
    script: &mut Script,
    source: &SourceId,
    before: Option<u64>,
    position: Position,
    sequence_restarted: bool,
) {
    if before.is_none() {
        push_claim(script, source);
    }
    if sequence_restarted || position.seq > before.unwrap_or_default() {
        push_place(script, source, position);
    }
    if sequence_restarted {
        cursor_marks::push_void(script, source, position);
    }
}

/// Appends the statement that sets the cursor of a source that has a row, in either direction.
pub(super) fn push_place(script: &mut Script, source: &SourceId, position: Position) {
    script.push(
        "UPDATE firehose_cursor \
         SET cursor = ?, event_time = ?, moved = 1, updated_at = unixepoch() WHERE source = ?",
        [
            position.seq.to_string().into(),
            position.time.map(|time| time.to_string()).into(),
            source.as_str().into(),
        ],
    );
}

/// Writes the cursor rows unchanged.
pub(super) async fn touch(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE firehose_cursor SET cursor = cursor")
        .execute(&mut *connection)
        .await?;
    Ok(())
}

pub(super) fn position(cursor: &str, event_time: Option<&str>) -> Result<Position, StoreError> {
    Position::parse(cursor, event_time).map_err(|error| StoreError::Corrupt(error.to_string()))
}
