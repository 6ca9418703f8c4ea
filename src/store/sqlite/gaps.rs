//! Stretches of a source's events that may have been missed.

use sqlx::sqlite::SqliteConnection;

use super::integer;
use crate::queue::effect::Gap;
use crate::source::SourceId;
use crate::store::datetime::sortable;

/// Records `gap`, unless it is known.
///
/// A gap whose end was not known when it was opened gets its end from the next one of the same
/// origin (source, cause, beginning); and one without an end adds nothing beside an open one of
/// the same origin.
pub(super) async fn open(
    connection: &mut SqliteConnection,
    source: &SourceId,
    gap: &Gap,
    now: &str,
) -> Result<(), sqlx::Error> {
    let from_time = gap.from_time.map(sortable);
    let to_seq = gap.to_seq.map(integer);
    let to_time = gap.to_time.map(sortable);
    if to_seq.is_some() {
        let ended = sqlx::query(
            "UPDATE gaps SET to_seq = ?5, to_time = ?6 \
             WHERE source = ?1 AND cause = ?2 AND from_seq = ?3 AND from_time IS ?4 \
             AND to_seq IS NULL AND closed_at IS NULL",
        )
        .bind(source.as_str())
        .bind(gap.cause.as_str())
        .bind(integer(gap.from_seq))
        .bind(from_time.as_deref())
        .bind(to_seq)
        .bind(to_time.as_deref())
        .execute(&mut *connection)
        .await?;
        if ended.rows_affected() > 0 {
            return Ok(());
        }
    }
    sqlx::query(
        "INSERT INTO gaps (source, cause, from_seq, from_time, to_seq, to_time, opened_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS ( \
             SELECT 1 FROM gaps \
             WHERE source = ?1 AND cause = ?2 AND from_seq = ?3 AND from_time IS ?4 \
             AND (to_seq = ?5 OR (?5 IS NULL AND closed_at IS NULL)))",
    )
    .bind(source.as_str())
    .bind(gap.cause.as_str())
    .bind(integer(gap.from_seq))
    .bind(from_time)
    .bind(to_seq)
    .bind(to_time)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    Ok(())
}
