//! Deletes the rows of removed accounts, in pieces.
//!
//! The transaction that removes an account leaves a row in `account_removals`, and deletes a first
//! piece: as a rule that is all. From then on the rows that are left are gone for every reader: the
//! view `removed_records` names them, and the views and the plans leave them out. A record that is
//! written again meanwhile is another row, which names the removal after which it was written.

use std::collections::BTreeMap;

use super::commit::push_deletion;
use super::script::{Script, Value, json_array};
use super::writer::{Failure, Transaction, Writer};
use super::{SqliteStore, integer, parked};
use crate::store::plan::{RecordRow, Removal};
use crate::store::{PieceLimit, RemovalPiece, StoreError};

/// The arguments: whether everything is removed, the seq up to which rows are of the sequence that is
/// followed, the time, a JSON array of DIDs.
const NEW: &str = "INSERT INTO account_removals (did, removed_at, removed_source, removed_seq, \
     followed, letters_through, done_through, began_at) \
     SELECT did, iif(?, NULL, removed_at), removed_source, removed_seq, ?, \
     (SELECT coalesce(max(id), 0) FROM dead_letters), 'at://' || did || '/', ? \
     FROM accounts WHERE did IN (SELECT value FROM json_each(?))";

/// Appends the statements that begin `removals`. The rows of the accounts are written already.
pub(super) fn push_new(
    script: &mut Script,
    removals: &BTreeMap<&str, Removal>,
    followed: Option<u64>,
    now: &str,
) {
    for kind in [Removal::Everything, Removal::BeforeEvent] {
        let of_kind = removals.iter().filter(|(_, removal)| **removal == kind);
        let dids: Vec<&str> = of_kind.map(|(did, _)| *did).collect();
        if !dids.is_empty() {
            let is_everything = kind == Removal::Everything;
            let dids = json_array(dids);
            script.push(
                NEW,
                [is_everything.into(), followed.into(), now.into(), dids],
            );
        }
    }
    parked::push_dropped(script, removals.keys().copied());
}

/// Appends the statement before those that write `records`: what is being deleted is deleted at once
/// where it is written again.
pub(super) fn push_before_records(script: &mut Script, records: &BTreeMap<String, RecordRow<'_>>) {
    push_deletion(
        script,
        "DELETE FROM records WHERE uri IN (SELECT value FROM json_each(?)) AND EXISTS ( \
         SELECT 1 FROM removed_records \
         WHERE removed_records.did = records.did AND removed_records.uri = records.uri)",
        records.keys().map(String::as_str),
    );
}

/// Appends the statement behind those that write `records`: they are not deleted by the removals that
/// are under way.
pub(super) fn push_after_records(script: &mut Script, records: &BTreeMap<String, RecordRow<'_>>) {
    push_deletion(
        script,
        "UPDATE records SET after_removal = (SELECT max(id) FROM account_removals AS removals \
         WHERE removals.did = records.did) \
         WHERE uri IN (SELECT value FROM json_each(?)) \
         AND did IN (SELECT did FROM account_removals)",
        records.keys().map(String::as_str),
    );
}

/// Runs `script`, which removes the accounts `dids`, deletes a first piece of their rows, and commits.
pub(super) async fn commit_with(
    transaction: Transaction<'_>,
    script: Script,
    dids: &[&str],
) -> Result<(), Failure> {
    let mut transaction = transaction.run_or_roll_back(script).await?;
    let mut left = PieceLimit::default();
    for row in newest(&mut transaction, dids).await? {
        let deleted = delete_piece(&mut transaction, &row, left).await?;
        if !deleted.is_last {
            break;
        }
        let mut script = Script::default();
        script.push("DELETE FROM account_removals WHERE id = ?", [row.id.into()]);
        run(&mut transaction, script).await?;
        left = deleted.rest_of(left);
    }
    Ok(transaction.commit().await?)
}

/// Deletes the next piece. Returns it with the id of its removal; `None` if there is none. A removal
/// whose last piece is deleted stays until [`RepoChange::RemovalEnded`].
///
/// [`RepoChange::RemovalEnded`]: crate::store::plan::RepoChange::RemovalEnded
pub(super) async fn piece(
    writer: &Writer,
    limit: PieceLimit,
) -> Result<Option<(RemovalPiece, i64)>, StoreError> {
    let mut transaction = writer.begin().await?;
    let oldest = sqlx::query_as("SELECT * FROM account_removals ORDER BY id LIMIT 1");
    let oldest: Option<Row> = oldest.fetch_optional(&mut *transaction).await?;
    let Some(row) = oldest else {
        transaction.rollback().await?;
        return Ok(None);
    };
    let deleted = delete_piece(&mut transaction, &row, limit).await?;
    transaction.commit().await?;
    let piece = RemovalPiece {
        did: row.did,
        rows: deleted.rows,
        bytes: deleted.bytes,
        is_last: deleted.is_last,
    };
    Ok(Some((piece, row.id)))
}

/// Counts the removals that are under way.
pub(super) async fn count(store: &SqliteStore) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM account_removals")
        .fetch_one(store.reader())
        .await?;
    Ok(count.unsigned_abs())
}

/// A row of `account_removals`.
#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    did: String,
    removed_at: Option<String>,
    removed_source: Option<String>,
    removed_seq: Option<i64>,
    letters_through: i64,
    done_through: String,
    began_at: String,
}

/// What was deleted.
#[derive(Clone, Copy, Default)]
struct Deleted {
    rows: u64,
    bytes: u64,
    is_last: bool,
}

impl Deleted {
    /// What is left of `limit`.
    fn rest_of(&self, limit: PieceLimit) -> PieceLimit {
        PieceLimit {
            rows: limit.rows.saturating_sub(self.rows),
            bytes: limit.bytes.saturating_sub(self.bytes),
        }
    }
}

/// The removals of `dids` that have just begun.
async fn newest(transaction: &mut Transaction<'_>, dids: &[&str]) -> Result<Vec<Row>, StoreError> {
    let query = sqlx::query_as(
        "SELECT * FROM account_removals WHERE id IN (SELECT max(id) FROM account_removals \
         WHERE did IN (SELECT value FROM json_each(?)) GROUP BY did) ORDER BY id",
    );
    let dids = serde_json::Value::from(dids).to_string();
    Ok(query.bind(dids).fetch_all(&mut **transaction).await?)
}

/// The statement that deletes the rows of a piece from a table.
macro_rules! of_piece {
    ($table:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE uri > ? AND uri <= ? AND EXISTS (SELECT 1 FROM removed_records AS removed \
             WHERE removed.did = ? AND removed.uri = ",
            $table,
            ".uri AND removal = ?)"
        )
    };
}

async fn delete_piece(
    transaction: &mut Transaction<'_>,
    row: &Row,
    limit: PieceLimit,
) -> Result<Deleted, StoreError> {
    let mut deleted = delete_records(transaction, row, limit).await?;
    if deleted.is_last {
        let letters = delete_letters(transaction, row, deleted.rest_of(limit)).await?;
        deleted.rows += letters.rows;
        deleted.bytes += letters.bytes;
        deleted.is_last = letters.is_last;
    }
    Ok(deleted)
}

/// The first letters that are within `limit`, and at least one unless nothing is left of the limit.
/// `rows` are ids with their bytes, as many as the limit allows. The bool says whether they are all
/// that there is.
fn within(rows: Vec<(i64, i64)>, limit: PieceLimit) -> (Vec<i64>, u64, bool) {
    let is_last = (rows.len() as u64) < limit.rows;
    let count = rows.len();
    let mut bytes = 0;
    let mut keys = Vec::new();
    for (key, of_row) in rows {
        if bytes > 0 && bytes + of_row.unsigned_abs() > limit.bytes {
            break;
        }
        bytes += of_row.unsigned_abs();
        keys.push(key);
    }
    let is_last = is_last && keys.len() == count;
    (keys, bytes, is_last)
}

/// The end of the next piece of the account's records, their number and their bytes, as one row: sqlx
/// returns rows one by one, which takes longer than deleting them.
const PIECE: &str = "SELECT max(uri), count(*), coalesce(sum(bytes), 0) FROM ( \
     SELECT uri, bytes, sum(bytes) OVER (ORDER BY uri) AS bytes_through FROM ( \
     SELECT uri, coalesce(octet_length(record), 0) + coalesce(octet_length(record_cbor), 0) AS bytes \
     FROM records WHERE uri > ?1 AND uri < ?2 ORDER BY uri LIMIT ?3)) \
     WHERE bytes_through <= ?4 OR bytes_through = bytes";

/// Deletes the records of a piece that are removed. A projection, and what is known of a stale record,
/// are deleted with the record. The arguments of each: the beginning and the end of the piece, the DID,
/// the removal.
const OF_PIECE: [&str; 5] = [
    of_piece!("offers_index"),
    of_piece!("booking_requests"),
    of_piece!("bookings"),
    of_piece!("stale_records"),
    of_piece!("records"),
];

async fn delete_records(
    transaction: &mut Transaction<'_>,
    row: &Row,
    limit: PieceLimit,
) -> Result<Deleted, StoreError> {
    // '0' is the character after '/'.
    let end = format!("at://{}0", row.did);
    let (through, rows, bytes): (Option<String>, i64, i64) = sqlx::query_as(PIECE)
        .bind(&row.done_through)
        .bind(&end)
        .bind(integer(limit.rows))
        .bind(integer(limit.bytes))
        .fetch_one(&mut **transaction)
        .await?;
    let Some(through) = through else {
        let is_last = limit.rows > 0;
        return Ok(Deleted {
            is_last,
            ..Deleted::default()
        });
    };
    let mut script = Script::default();
    for statement in OF_PIECE {
        script.push(
            statement,
            [
                row.done_through.as_str().into(),
                through.as_str().into(),
                row.did.as_str().into(),
                row.id.into(),
            ],
        );
    }
    script.push(
        "UPDATE account_removals SET done_through = ? WHERE id = ?",
        [through.as_str().into(), row.id.into()],
    );
    run(transaction, script).await?;
    let is_last =
        sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM records WHERE uri > ? AND uri < ?)")
            .bind(&through)
            .bind(&end)
            .fetch_one(&mut **transaction)
            .await?;
    Ok(Deleted {
        rows: rows.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
        is_last,
    })
}

/// Letters of later events stay, and so do those that were written after the removal.
const LETTERS: &str = "SELECT id, octet_length(raw) + coalesce(octet_length(task), 0) \
     FROM dead_letters WHERE did = ?1 AND id <= ?2 AND created_at <= ?3 \
     AND (?4 IS NULL OR source IS NOT ?5 OR coalesce(seq, 0) <= ?6) LIMIT ?7";

async fn delete_letters(
    transaction: &mut Transaction<'_>,
    row: &Row,
    limit: PieceLimit,
) -> Result<Deleted, StoreError> {
    let found: Vec<(i64, i64)> = sqlx::query_as(LETTERS)
        .bind(&row.did)
        .bind(row.letters_through)
        .bind(&row.began_at)
        .bind(&row.removed_at)
        .bind(&row.removed_source)
        .bind(row.removed_seq)
        .bind(integer(limit.rows))
        .fetch_all(&mut **transaction)
        .await?;
    let (ids, bytes, is_last) = within(found, limit);
    let mut script = Script::default();
    if !ids.is_empty() {
        let json = serde_json::Value::from(ids.as_slice()).to_string();
        script.push(
            "DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))",
            [Value::Text(json)],
        );
    }
    run(transaction, script).await?;
    Ok(Deleted {
        rows: ids.len() as u64,
        bytes,
        is_last,
    })
}

async fn run(transaction: &mut Transaction<'_>, script: Script) -> Result<(), StoreError> {
    transaction.run(script).await?;
    Ok(())
}
