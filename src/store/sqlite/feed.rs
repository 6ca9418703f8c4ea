//! The numbers of the change feed: each write to `records`, and to the accounts of which records are kept,
//! takes the next one in its transaction. The writer holds the lock, so the order of the numbers is the
//! order of the commits.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;

use super::script::{Script, Value, json_array};
use super::writer::Failure;
use super::{SqliteStore, integer};
use crate::store::plan::{AccountRow, Removal, ToldAgain};
use crate::store::{PieceLimit, StoreError};

/// Gives out the numbers of a transaction. A number that is given out may be left out.
#[derive(Debug)]
pub(super) struct Numbers {
    before: u64,
    last: u64,
}

impl Numbers {
    /// The numbers behind `last`.
    pub(super) fn after(last: u64) -> Self {
        Self { before: last, last }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Gives out `count` numbers; returns the first.
    fn reserve(&mut self, count: usize) -> u64 {
        let first = self.last + 1;
        self.last += count as u64;
        first
    }

    /// Appends the statement that stores the last number, if any was given out.
    pub(super) fn push_last(&self, script: &mut Script) {
        if self.last > self.before {
            script.push("UPDATE change_feed SET last = ?", [self.last.into()]);
        }
    }
}

/// Appends the statements by which accounts enter the feed: those of which a first record is written, and
/// those whose row is written for the first time while records of them are kept.
pub(super) fn push_entering(
    script: &mut Script,
    numbers: &mut Numbers,
    written: &[(&&str, &AccountRow)],
    entering: &BTreeSet<&str>,
) {
    if !entering.is_empty() {
        let first = numbers.reserve(entering.len());
        script.push(
            "UPDATE accounts SET change = ? + named.key FROM json_each(?) AS named \
             WHERE accounts.did = named.value",
            [first.into(), json_array(entering.iter().copied())],
        );
    }
    let is_outside =
        |(did, account): &&(&&str, &AccountRow)| !account.is_in_feed && !entering.contains(**did);
    let outside: Vec<&str> = written
        .iter()
        .filter(is_outside)
        .map(|(did, _)| **did)
        .collect();
    if !outside.is_empty() {
        let first = numbers.reserve(outside.len());
        // The records of an account are the URIs between both: behind '/' comes '0'.
        script.push(
            "UPDATE accounts SET change = ? + named.key FROM json_each(?) AS named \
             WHERE accounts.did = named.value AND EXISTS (SELECT 1 FROM records \
             WHERE uri > 'at://' || named.value || '/' AND uri < 'at://' || named.value || '0')",
            [first.into(), json_array(outside)],
        );
    }
}

/// Appends the statement that notes the change which removes what is kept of the accounts.
pub(super) fn push_removals(script: &mut Script, removals: &BTreeMap<&str, Removal>) {
    if !removals.is_empty() {
        script.push(
            "UPDATE accounts SET removal_change = change \
             WHERE did IN (SELECT value FROM json_each(?))",
            [json_array(removals.keys().copied())],
        );
    }
}

/// Appends the statement that marks the records `uris` as verified with their chain. A row of an earlier
/// version that has no number gets one in its turn.
pub(super) fn push_confirmed(script: &mut Script, numbers: &mut Numbers, uris: &[String]) {
    if !uris.is_empty() {
        let first = numbers.reserve(uris.len());
        script.push(
            "UPDATE records SET verified = 'chain', \
             change = iif(change IS NULL, NULL, ? + named.key) FROM json_each(?) AS named \
             WHERE records.uri = named.value",
            [first.into(), json_array(uris.iter().map(String::as_str))],
        );
    }
}

/// Appends the statement that tells of the records `uris` that are stale no longer. The rows that name
/// them are still there.
pub(super) fn push_refreshed(script: &mut Script, numbers: &mut Numbers, uris: &BTreeSet<String>) {
    if !uris.is_empty() {
        let first = numbers.reserve(uris.len());
        script.push(
            "UPDATE records SET change = ? + named.key FROM json_each(?) AS named \
             WHERE records.uri = named.value AND change IS NOT NULL \
             AND EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = named.value)",
            [first.into(), json_array(uris.iter().map(String::as_str))],
        );
    }
}

/// Appends the statement that tells of a row again. One that is not in the feed stays out of it.
pub(super) fn push_told_again(script: &mut Script, numbers: &mut Numbers, row: ToldAgain<'_>) {
    let number = numbers.next().into();
    match row {
        ToldAgain::Account(did) => script.push(
            "UPDATE accounts SET change = ? WHERE did = ? AND change IS NOT NULL",
            [number, did.into()],
        ),
        ToldAgain::Record(uri) => script.push(
            "UPDATE records SET change = ? WHERE uri = ? AND change IS NOT NULL",
            [number, uri.into()],
        ),
    }
}

/// Appends the statements that tell of the stale records of a repository that was fetched whole.
pub(super) fn push_refreshed_repo(script: &mut Script, did: &str) {
    script.push(
        "UPDATE records SET change = (SELECT last FROM change_feed) + stale.number FROM ( \
         SELECT uri, row_number() OVER (ORDER BY uri) AS number FROM stale_records \
         WHERE did = ? AND is_wanted = 1) AS stale \
         WHERE records.uri = stale.uri AND change IS NOT NULL",
        [did.into()],
    );
    script.push(
        "UPDATE change_feed SET last = last + ( \
         SELECT count(*) FROM stale_records WHERE did = ? AND is_wanted = 1)",
        [did.into()],
    );
}

/// Appends the statements that tell again of the records of a removed account that stay, among those with
/// a URI behind `after` up to `through`. A reader has deleted them with the others.
pub(super) fn push_survivors(script: &mut Script, did: &str, after: &str, through: &str) {
    script.push(
        "UPDATE records SET change = (SELECT last FROM change_feed) + survivor.number FROM ( \
         SELECT uri, row_number() OVER (ORDER BY uri) AS number FROM records \
         WHERE uri > ? AND uri <= ? AND change < (SELECT removal_change FROM accounts WHERE did = ?)) \
         AS survivor WHERE records.uri = survivor.uri",
        [after.into(), through.into(), did.into()],
    );
    script.push("UPDATE change_feed SET last = last + changes()", []);
}

/// Tells of the records that are hidden from now on, given as a JSON array of URIs.
pub(super) const NUMBER_HIDDEN: &str = "UPDATE records \
     SET change = (SELECT last FROM change_feed) + 1 + named.key FROM json_each(?) AS named \
     WHERE records.uri = named.value AND change IS NOT NULL \
     AND NOT EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = named.value)";

/// Gives out a number for each element of a JSON array.
pub(super) const RESERVE: &str =
    "UPDATE change_feed SET last = last + (SELECT count(*) FROM json_each(?))";

/// Gives numbers to a piece of the rows that have none, because an earlier version wrote them. Returns
/// whether there was one.
pub(super) async fn number_piece(
    store: &SqliteStore,
    limit: PieceLimit,
) -> Result<bool, StoreError> {
    if is_numbered(store).await? {
        return Ok(false);
    }
    let mut script = Script::default();
    script.push(
        "SELECT uri FROM records WHERE uri > (SELECT numbered_through FROM change_feed) \
         ORDER BY uri LIMIT ?",
        [integer(limit.rows).into()],
    );
    let (transaction, answers) = store.writer.begin_with(script).await?;
    let uris = answers.into_iter().flatten();
    let uris: Vec<String> = uris.map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let mut script = Script::default();
    push_piece(&mut script, &uris, limit);
    transaction
        .commit_with(script)
        .await
        .map_err(Failure::into_store)?;
    Ok(true)
}

/// Whether all rows have numbers.
pub(super) async fn is_numbered(store: &SqliteStore) -> Result<bool, StoreError> {
    let is_numbered = sqlx::query_scalar("SELECT numbered_through IS NULL FROM change_feed");
    Ok(is_numbered.fetch_one(store.reader()).await?)
}

/// Appends the statements that give numbers to the records `uris`, and before them to their accounts.
fn push_piece(script: &mut Script, uris: &[String], limit: PieceLimit) {
    let dids: BTreeSet<&str> = uris
        .iter()
        .filter_map(|uri| uri.split('/').nth(2))
        .collect();
    for (statement, keys) in [
        (NUMBER_ACCOUNTS, json_array(dids)),
        (NUMBER_RECORDS, json_array(uris.iter().map(String::as_str))),
    ] {
        script.push(statement, [keys.clone()]);
        script.push(RESERVE, [keys]);
    }
    let is_last = (uris.len() as u64) < limit.rows;
    let through = uris.last().filter(|_| !is_last).map(String::as_str);
    script.push(
        "UPDATE change_feed SET numbered_through = ?",
        [Value::from(through)],
    );
}

const NUMBER_ACCOUNTS: &str = "UPDATE accounts \
     SET change = (SELECT last FROM change_feed) + 1 + named.key FROM json_each(?) AS named \
     WHERE accounts.did = named.value AND change IS NULL";

const NUMBER_RECORDS: &str = "UPDATE records \
     SET change = (SELECT last FROM change_feed) + 1 + named.key FROM json_each(?) AS named \
     WHERE records.uri = named.value AND change IS NULL";

/// The statement that begins an epoch. From then on numbers are those of this process.
pub(super) fn begin_epoch() -> Script {
    let mut script = Script::default();
    script.push(
        "INSERT INTO feed_epochs (epoch, first_change) \
         SELECT lower(hex(randomblob(16))), last + 1 FROM change_feed",
        [],
    );
    script
}
