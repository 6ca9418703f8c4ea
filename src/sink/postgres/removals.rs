//! Deletes what removed accounts had written, in pieces. A row of `account_removals` hides what is left.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::sink::SinkError;

/// Rows that one transaction looks at.
const ROWS: i64 = 1000;

const NEXT: &str =
    "SELECT did, feed, done_through FROM account_removals ORDER BY did, feed LIMIT 1";

/// The arguments: the DID, the feed, the URI up to which records are deleted, the rows. The records of an
/// account are the URIs between 'at://DID/' and 'at://DID0'.
const DELETE: &str = "WITH piece AS MATERIALIZED ( \
     SELECT uri FROM records WHERE uri > $3 AND uri < 'at://' || $1 || '0' ORDER BY uri LIMIT $4), \
     removed AS MATERIALIZED (SELECT piece.uri FROM piece INNER JOIN removed_records AS removed \
     ON removed.did = $1 AND removed.uri = piece.uri AND removed.removal_feed = $2), \
     offers AS (DELETE FROM offers_index USING removed WHERE offers_index.uri = removed.uri), \
     requests AS (DELETE FROM booking_requests USING removed \
     WHERE booking_requests.uri = removed.uri), \
     bookings_of AS (DELETE FROM bookings USING removed WHERE bookings.uri = removed.uri), \
     stale AS (DELETE FROM stale_records USING removed WHERE stale_records.uri = removed.uri), \
     gone AS (DELETE FROM records USING removed WHERE records.uri = removed.uri) \
     SELECT max(uri), count(*) FROM piece";

const END: &str = "DELETE FROM account_removals WHERE did = $1 AND feed = $2";
const GO_ON: &str = "UPDATE account_removals SET done_through = $3 WHERE did = $1 AND feed = $2";
const IS_LEFT: &str = "SELECT EXISTS (SELECT 1 FROM account_removals)";

/// Deletes a piece. Returns whether more is left.
pub(super) async fn do_piece(connection: &mut PgConnection) -> Result<bool, SinkError> {
    let next = sqlx::query(NEXT).persistent(false);
    let Some(next) = next.fetch_optional(&mut *connection).await? else {
        return Ok(false);
    };
    let (did, feed): (&str, &str) = (next.try_get(0)?, next.try_get(1)?);
    let piece = sqlx::query(DELETE)
        .bind(did)
        .bind(feed)
        .bind(next.try_get::<&str, _>(2)?)
        .bind(ROWS)
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    let through: Option<&str> = piece.try_get(0)?;
    let count: i64 = piece.try_get(1)?;
    match through.filter(|_| count >= ROWS) {
        Some(through) => {
            let go_on = sqlx::query(GO_ON).bind(did).bind(feed).bind(through);
            go_on.persistent(false).execute(&mut *connection).await?;
        }
        None => {
            let end = sqlx::query(END).bind(did).bind(feed);
            end.persistent(false).execute(&mut *connection).await?;
        }
    }
    let is_left = sqlx::query(IS_LEFT).persistent(false);
    Ok(is_left.fetch_one(connection).await?.try_get(0)?)
}
