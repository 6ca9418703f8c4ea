//! Deletes the rows of removed accounts, a piece at a time, and old booking requests that have ended.
//!
//! A request to D1 may arrive late, or twice. So the request does not say which rows to delete: each
//! statement reads that from the tables when it runs.

use super::client::Rows;
use super::statement::Statement;
use crate::sink::SinkError;

/// Takes the next piece of the first removal: up to the thousandth record, or to the end of the account.
const BEGIN: &str = "UPDATE account_removals SET piece_through = coalesce((SELECT uri FROM records \
     WHERE uri > account_removals.done_through AND uri < 'at://' || account_removals.did || '0' \
     ORDER BY uri LIMIT 1 OFFSET 999), 'at://' || did || '0') \
     WHERE (did, feed) = (SELECT did, feed FROM account_removals ORDER BY did, feed LIMIT 1)";

/// The records come last: the others are found by them.
const DELETE: [&str; 5] = [
    "DELETE FROM offers_index WHERE uri IN (SELECT uri FROM removal_piece)",
    "DELETE FROM booking_requests WHERE uri IN (SELECT uri FROM removal_piece)",
    "DELETE FROM bookings WHERE uri IN (SELECT uri FROM removal_piece)",
    "DELETE FROM stale_records WHERE uri IN (SELECT uri FROM removal_piece)",
    "DELETE FROM records WHERE uri IN (SELECT uri FROM removal_piece)",
];

const END: &str = "DELETE FROM account_removals WHERE piece_through = 'at://' || did || '0'";
const GO_ON: &str = "UPDATE account_removals SET done_through = piece_through, piece_through = NULL \
     WHERE piece_through IS NOT NULL";

const PURGE: &str = "DELETE FROM booking_requests WHERE uri IN (SELECT uri FROM booking_requests \
     WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at < ?1 LIMIT 1000)";

/// As text, like everything that is read.
const IS_LEFT: &str = "SELECT CASE WHEN EXISTS (SELECT 1 FROM account_removals) \
     OR EXISTS (SELECT 1 FROM booking_requests \
     WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at < ?1) \
     THEN 'yes' ELSE 'no' END AS is_left";

/// A batch that does a piece of both. Requests that were written before `limit` are purged.
pub(super) fn piece(limit: &str) -> Vec<Statement> {
    let plain = |sql| Statement::new(sql, []);
    let mut batch = vec![plain(BEGIN)];
    batch.extend(DELETE.map(plain));
    batch.extend([END, GO_ON].map(plain));
    batch.extend([PURGE, IS_LEFT].map(|sql| Statement::new(sql, [limit.to_owned()])));
    batch
}

/// Whether more is left, as the last statement of [`piece`] says.
pub(super) fn is_left(rows: &[Rows]) -> Result<bool, SinkError> {
    match rows.last().and_then(|row| row.first("is_left")) {
        Some(answer) => Ok(answer == "yes"),
        None => Err(SinkError::unavailable(
            "the sink does not say whether more is left",
        )),
    }
}
