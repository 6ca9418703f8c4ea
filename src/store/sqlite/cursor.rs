//! Each source's row of `firehose_cursor`.

use sqlx::sqlite::SqliteConnection;

use crate::model::{Position, SourceId};
use crate::store::{StoreError, StoredCursor};

/// Gives `source` a row where it has none: the row 'main' where that is still nobody's, else a new
/// one. Returns whether it had none.
pub(super) async fn predecessor(
    connection: &mut SqliteConnection,
    source: &SourceId,
) -> Result<bool, sqlx::Error> {
    let main = sqlx::query(
        "UPDATE firehose_cursor SET source = ?1 WHERE id = 'main' AND source IS NULL \
         AND NOT EXISTS (SELECT 1 FROM firehose_cursor WHERE source = ?1)",
    )
    .bind(source.as_str())
    .execute(&mut *connection)
    .await?;
    if main.rows_affected() > 0 {
        return Ok(true);
    }
    let own = sqlx::query(
        "INSERT INTO firehose_cursor (id, cursor, source) SELECT ?1, '0', ?1 \
         WHERE NOT EXISTS (SELECT 1 FROM firehose_cursor WHERE source = ?1)",
    )
    .bind(source.as_str())
    .execute(&mut *connection)
    .await?;
    Ok(own.rows_affected() > 0)
}

/// The cursor of a source that has claimed its row.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    source: &SourceId,
) -> Result<StoredCursor, StoreError> {
    let (cursor, event_time, moved, follows_another): (String, Option<String>, bool, bool) =
        sqlx::query_as(
            "SELECT cursor, event_time, moved, EXISTS ( \
                 SELECT 1 FROM firehose_cursor AS earlier \
                 WHERE earlier.rowid < firehose_cursor.rowid \
                 AND CAST(earlier.cursor AS INTEGER) > 0) \
             FROM firehose_cursor WHERE source = ?",
        )
        .bind(source.as_str())
        .fetch_one(&mut *connection)
        .await?;
    let position = position(&cursor, event_time.as_deref())?;
    Ok(StoredCursor {
        position,
        // An operator who knows SQL may have set the cursor without saying so.
        is_new: !moved && position.seq == 0,
        follows_another,
    })
}

/// Moves the cursor forward, and back only where the source's seqs have begun anew.
pub(super) async fn advance(
    connection: &mut SqliteConnection,
    source: &SourceId,
    position: Position,
    sequence_restarted: bool,
) -> Result<(), sqlx::Error> {
    let moved = set(connection, source, position, sequence_restarted).await?;
    if !moved && predecessor(connection, source).await? {
        set(connection, source, position, sequence_restarted).await?;
    }
    Ok(())
}

/// Puts the cursor of a source that has claimed its row at `position`, wherever it was.
pub(super) async fn place(
    connection: &mut SqliteConnection,
    source: &SourceId,
    position: Position,
) -> Result<(), sqlx::Error> {
    set(connection, source, position, true).await?;
    Ok(())
}

async fn set(
    connection: &mut SqliteConnection,
    source: &SourceId,
    position: Position,
    backwards_too: bool,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "UPDATE firehose_cursor \
         SET cursor = ?2, event_time = ?3, moved = 1, updated_at = unixepoch() \
         WHERE source = ?1 AND (?4 OR CAST(cursor AS INTEGER) < CAST(?2 AS INTEGER))",
    )
    .bind(source.as_str())
    .bind(position.seq.to_string())
    .bind(position.time.map(|time| time.to_string()))
    .bind(backwards_too)
    .execute(&mut *connection)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// Writes to a row what is in it already.
pub(super) async fn touch(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE firehose_cursor SET cursor = cursor")
        .execute(&mut *connection)
        .await?;
    Ok(())
}

pub(super) fn position(cursor: &str, event_time: Option<&str>) -> Result<Position, StoreError> {
    Position::parse(cursor, event_time).map_err(|error| StoreError::Corrupt(error.to_string()))
}
