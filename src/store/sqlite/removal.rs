//! Deletes the rows of removed accounts, in pieces.
//!
//! The transaction that removes an account leaves a row in `account_removals`, and deletes a first
//! piece: as a rule that is all. From then on the rows that are left are gone for every reader: the
//! view `removed_records` names them, and the views and the plans leave them out. A record that is
//! written again meanwhile is another row, which names the removal after which it was written.

use std::collections::BTreeMap;

use serde::Deserialize;
use sqlx::Row;

use super::commit::push_deletion;
use super::feed;
use super::script::{Answers, Script, Value, json_array};
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
/// The housekeeping deletes what is left.
pub(super) async fn commit_with(
    transaction: Transaction<'_>,
    mut script: Script,
    dids: &[&str],
) -> Result<(), Failure> {
    let limit = PieceLimit::default();
    let mut arguments = arguments_of(limit);
    arguments.push(json_array(dids.iter().copied()));
    script.push(PIECES_OF_NEWEST, arguments);
    let (transaction, answers) = transaction.run_or_roll_back(script).await?;
    let pieces = pieces(answers).map_err(StoreError::from)?;
    let mut script = Script::default();
    let mut left = limit;
    for piece in &pieces {
        let deleted = push_piece(&mut script, piece, left);
        if !deleted.is_last {
            break;
        }
        script.push(
            "DELETE FROM account_removals WHERE id = ?",
            [piece.id.into()],
        );
        left = deleted.rest_of(left);
    }
    transaction.commit_with(script).await
}

/// Deletes the next piece. Returns it with the id of its removal; `None` if there is none. A removal
/// whose last piece is deleted stays until [`RepoChange::RemovalEnded`].
///
/// [`RepoChange::RemovalEnded`]: crate::store::plan::RepoChange::RemovalEnded
pub(super) async fn piece(
    writer: &Writer,
    limit: PieceLimit,
) -> Result<Option<(RemovalPiece, i64)>, StoreError> {
    let mut script = Script::default();
    script.push(PIECE_OF_OLDEST, arguments_of(limit));
    let (transaction, answers) = writer.begin_with(script).await?;
    let Some(piece) = pieces(answers)?.into_iter().next() else {
        transaction.rollback().await?;
        return Ok(None);
    };
    let mut script = Script::default();
    let deleted = push_piece(&mut script, &piece, limit);
    transaction
        .commit_with(script)
        .await
        .map_err(Failure::into_store)?;
    let of_removal = RemovalPiece {
        did: piece.did,
        rows: deleted.rows,
        bytes: deleted.bytes,
        is_last: deleted.is_last,
    };
    Ok(Some((of_removal, piece.id)))
}

/// Counts the removals that are under way.
pub(super) async fn count(store: &SqliteStore) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM account_removals")
        .fetch_one(store.reader())
        .await?;
    Ok(count.unsigned_abs())
}

/// What a removal can delete next.
#[derive(Deserialize)]
struct Piece {
    id: i64,
    did: String,
    /// The URI up to which records are deleted already.
    done_through: String,
    /// The last URI of the next records, their number and their bytes. `None` if there are no more.
    records: (Option<String>, u64, u64),
    /// There are records behind them.
    has_more_records: u8,
    /// The ids of the next dead letters, and their bytes.
    letters: Vec<(i64, u64)>,
    /// The most rows that were read of each.
    most: u64,
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

/// The statement that reads what the removals of a condition can delete next, as one row: sqlx returns
/// rows one by one, which takes longer than deleting them. The arguments are those of
/// `arguments_of`, then the condition's.
///
/// The character after '/' is '0', so an account's records are the URIs between both. Letters of later
/// events stay, and so do those that were written after the removal.
macro_rules! pieces_of {
    ($condition:literal) => {
        concat!(
            "SELECT json_group_array(json_object('id', id, 'did', did, 'done_through', done_through, \
             'records', json(records), 'letters', json(letters), 'most', most, \
             'has_more_records', EXISTS (SELECT 1 FROM records AS more \
             WHERE more.uri > piece.records ->> 0 AND more.uri < 'at://' || piece.did || '0'))) FROM ( \
             SELECT id, did, done_through, ? AS most, \
             (SELECT json_array(max(uri), count(*), coalesce(sum(bytes), 0)) FROM ( \
             SELECT uri, bytes, sum(bytes) OVER (ORDER BY uri) AS bytes_through FROM ( \
             SELECT uri, coalesce(octet_length(record), 0) + coalesce(octet_length(record_cbor), 0) \
             AS bytes FROM records WHERE uri > removal.done_through \
             AND uri < 'at://' || removal.did || '0' ORDER BY uri LIMIT ?)) \
             WHERE bytes_through <= ? OR bytes_through = bytes) AS records, \
             (SELECT json_group_array(json_array(id, bytes)) FROM ( \
             SELECT id, octet_length(raw) + coalesce(octet_length(task), 0) AS bytes \
             FROM dead_letters AS letter WHERE letter.did = removal.did \
             AND id <= removal.letters_through AND created_at <= removal.began_at \
             AND (removal.removed_at IS NULL OR letter.source IS NOT removal.removed_source \
             OR coalesce(letter.seq, 0) <= removal.removed_seq) ORDER BY id LIMIT ?)) AS letters \
             FROM account_removals AS removal WHERE ",
            $condition,
            " ORDER BY id) AS piece"
        )
    };
}

const PIECE_OF_OLDEST: &str = pieces_of!("id = (SELECT min(id) FROM account_removals)");

/// The argument of the condition: a JSON array of DIDs.
const PIECES_OF_NEWEST: &str = pieces_of!(
    "id IN (SELECT max(id) FROM account_removals \
     WHERE did IN (SELECT value FROM json_each(?)) GROUP BY did)"
);

fn arguments_of(limit: PieceLimit) -> Vec<Value> {
    let rows = integer(limit.rows).into();
    let bytes = integer(limit.bytes).into();
    [&rows, &rows, &bytes, &rows].map(Value::clone).into()
}

/// The result of the last statement, which is one of `pieces_of!`.
fn pieces(answers: Answers) -> Result<Vec<Piece>, sqlx::Error> {
    let row = answers.into_iter().next_back().into_iter().flatten().next();
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let text: &str = row.try_get(0)?;
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The first letters that are within `limit`, and at least one unless no row is left of the limit.
/// The bool says whether they are all that there are.
fn within(piece: &Piece, limit: PieceLimit) -> (Vec<i64>, u64, bool) {
    let mut bytes = 0;
    let mut ids = Vec::new();
    for (id, of_letter) in &piece.letters {
        let is_full = ids.len() as u64 >= limit.rows;
        if is_full || (bytes > 0 && bytes + of_letter > limit.bytes) {
            break;
        }
        bytes += of_letter;
        ids.push(*id);
    }
    let are_all_read = (piece.letters.len() as u64) < piece.most;
    let are_all = are_all_read && ids.len() == piece.letters.len();
    (ids, bytes, are_all)
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

/// Appends the statements that delete `piece`. Nothing of it is deleted if `limit`, the rest of that
/// with which it was read, is too small.
fn push_piece(script: &mut Script, piece: &Piece, limit: PieceLimit) -> Deleted {
    let (through, rows, bytes) = &piece.records;
    let of_records = Deleted {
        rows: *rows,
        bytes: *bytes,
        is_last: piece.has_more_records == 0,
    };
    if let Some(through) = through {
        let is_whole_limit = limit.rows == piece.most;
        if !is_whole_limit && (*rows > limit.rows || *bytes > limit.bytes) {
            return Deleted::default();
        }
        push_records(script, piece, through);
        if !of_records.is_last {
            return of_records;
        }
    }
    let (ids, bytes, is_last) = within(piece, of_records.rest_of(limit));
    if !ids.is_empty() {
        let json = serde_json::Value::from(ids.as_slice()).to_string();
        script.push(
            "DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))",
            [Value::Text(json)],
        );
    }
    Deleted {
        rows: of_records.rows + ids.len() as u64,
        bytes: of_records.bytes + bytes,
        is_last,
    }
}

fn push_records(script: &mut Script, piece: &Piece, through: &str) {
    for statement in OF_PIECE {
        script.push(
            statement,
            [
                piece.done_through.as_str().into(),
                through.into(),
                piece.did.as_str().into(),
                piece.id.into(),
            ],
        );
    }
    feed::push_survivors(script, &piece.did, &piece.done_through, through);
    script.push(
        "UPDATE account_removals SET done_through = ? WHERE id = ?",
        [through.into(), piece.id.into()],
    );
}
