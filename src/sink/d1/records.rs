//! The rows of `records`.

use serde::Serialize;

use super::statement::{Statement, bytes_in_row, push_rows};
use crate::model::{Change, ChangedRecord, Feed};
use crate::sink::SinkError;
use crate::sink::nul::without_nul;

/// A record that takes more bytes is omitted: D1 takes 2 MB a row.
pub(super) const MOST_BODY: usize = 1_500_000;

/// What was removed with its account is refused. From the same feed the later change replaces, whatever
/// its rev: the database has judged already. From another feed, and where the change that wrote the row
/// was lost, the higher rev does; at an equal one the later write. What was lost comes again at the same
/// rev and time, so from the same feed an equal one replaces too. A row that is being deleted with its
/// account counts as none.
const WRITE: &str = "INSERT INTO records AS held (uri, did, collection, rkey, cid, rev, seq, source, time, \
     record, omitted, validity, invalid_reason, refused_cid, verified, first_indexed_at, \
     last_indexed_at, deleted, feed, epoch, change) \
     SELECT item.uri, item.did, item.collection, item.rkey, item.cid, item.rev, item.seq, \
     item.source, item.time, item.record, item.omitted, item.validity, item.invalid_reason, \
     item.refused_cid, item.verified, item.first_indexed_at, item.last_indexed_at, item.deleted, \
     ?1, item.epoch, item.change \
     FROM (SELECT value ->> 'uri' AS uri, value ->> 'did' AS did, \
     value ->> 'collection' AS collection, value ->> 'rkey' AS rkey, value ->> 'cid' AS cid, \
     value ->> 'rev' AS rev, value ->> 'seq' AS seq, value ->> 'source' AS source, \
     value ->> 'time' AS time, value ->> 'record' AS record, value ->> 'omitted' AS omitted, \
     value ->> 'validity' AS validity, value ->> 'invalid_reason' AS invalid_reason, \
     value ->> 'refused_cid' AS refused_cid, value ->> 'verified' AS verified, \
     value ->> 'first_indexed_at' AS first_indexed_at, \
     value ->> 'last_indexed_at' AS last_indexed_at, value ->> 'deleted' AS deleted, \
     value ->> 'epoch' AS epoch, value ->> 'change' AS change FROM json_each(?2)) AS item \
     LEFT JOIN accounts AS account ON account.did = item.did \
     WHERE account.removed_at IS NULL OR CASE \
     WHEN account.removal_feed = ?1 AND (account.removal_change IS NULL \
     OR EXISTS (SELECT 1 FROM sink_epochs AS known \
     WHERE known.feed = account.removal_feed AND known.epoch = account.removal_epoch \
     AND account.removal_change <= coalesce(known.through, 9223372036854775807))) \
     THEN item.change > coalesce(account.removal_change, 0) \
     ELSE min(item.time, item.last_indexed_at) > account.removed_at END \
     ON CONFLICT (uri) DO UPDATE SET did = excluded.did, collection = excluded.collection, \
     rkey = excluded.rkey, cid = excluded.cid, rev = excluded.rev, seq = excluded.seq, \
     source = excluded.source, time = excluded.time, record = excluded.record, \
     omitted = excluded.omitted, validity = excluded.validity, \
     invalid_reason = excluded.invalid_reason, refused_cid = excluded.refused_cid, \
     verified = excluded.verified, first_indexed_at = excluded.first_indexed_at, \
     last_indexed_at = excluded.last_indexed_at, deleted = excluded.deleted, feed = excluded.feed, \
     epoch = excluded.epoch, change = excluded.change \
     WHERE CASE WHEN held.feed = excluded.feed AND EXISTS (SELECT 1 FROM sink_epochs AS known \
     WHERE known.feed = held.feed AND known.epoch = held.epoch \
     AND held.change <= coalesce(known.through, 9223372036854775807)) \
     THEN excluded.change >= held.change \
     WHEN held.feed = excluded.feed AND held.epoch = excluded.epoch \
     AND NOT EXISTS (SELECT 1 FROM sink_epochs AS known \
     WHERE known.feed = held.feed AND known.epoch = held.epoch) \
     THEN excluded.change >= held.change \
     WHEN held.feed = excluded.feed \
     THEN (excluded.rev, excluded.last_indexed_at) >= (held.rev, held.last_indexed_at) \
     ELSE (excluded.rev, excluded.last_indexed_at) > (held.rev, held.last_indexed_at) END \
     OR EXISTS (SELECT 1 FROM removed_records AS removed \
     WHERE removed.did = held.did AND removed.uri = held.uri)";

/// What follows the row of a record follows only if that row is the one of this change: then it was
/// written, in this batch. The rows are those of [`Key`].
macro_rules! written {
    () => {
        "FROM json_each(?2) AS item INNER JOIN records ON records.uri = item.value ->> 'uri' \
         AND records.feed = ?1 AND records.epoch = item.value ->> 'epoch' \
         AND records.change = item.value ->> 'change' "
    };
}
pub(super) use written;

const SHOW: &str = concat!(
    "DELETE FROM stale_records WHERE uri IN (SELECT records.uri ",
    written!(),
    ")"
);

const HIDE: &str = concat!(
    "INSERT INTO stale_records (uri, did) SELECT records.uri, records.did ",
    written!(),
    "WHERE true ON CONFLICT (uri) DO NOTHING"
);

#[derive(Serialize)]
struct Row<'a> {
    uri: &'a str,
    did: &'a str,
    collection: &'a str,
    rkey: &'a str,
    cid: Option<&'a str>,
    rev: &'a str,
    seq: u64,
    source: &'a str,
    time: &'a str,
    record: Option<&'a str>,
    omitted: u8,
    deleted: u8,
    validity: Option<&'a str>,
    invalid_reason: Option<String>,
    refused_cid: Option<&'a str>,
    verified: &'a str,
    first_indexed_at: &'a str,
    last_indexed_at: &'a str,
    epoch: &'a str,
    change: u64,
}

/// A record and the change that writes it.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Key<'a> {
    pub(super) uri: &'a str,
    pub(super) epoch: &'a str,
    pub(super) change: u64,
}

impl<'a> Key<'a> {
    pub(super) fn of(change: &'a Change, record: &'a ChangedRecord) -> Self {
        Self {
            uri: &record.uri,
            epoch: change.epoch.as_str(),
            change: change.number,
        }
    }
}

/// Adds what writes records.
pub(super) fn write(
    batch: &mut Vec<Statement>,
    feed: &Feed,
    changes: &[(&Change, &ChangedRecord)],
) -> Result<(), SinkError> {
    let id = feed.id.as_str();
    push_rows(
        batch,
        WRITE,
        id,
        changes.iter().map(|(change, record)| row(change, record)),
    )?;
    let keys = |is_stale: bool| {
        let those = changes
            .iter()
            .filter(move |(_, record)| record.is_stale == is_stale);
        those.map(|(change, record)| Key::of(change, record))
    };
    push_rows(batch, SHOW, id, keys(false))?;
    push_rows(batch, HIDE, id, keys(true))
}

fn row<'a>(change: &'a Change, record: &'a ChangedRecord) -> Row<'a> {
    let body = record.record.as_deref();
    let sent = body.filter(|body| bytes_in_row(body) <= MOST_BODY);
    Row {
        uri: &record.uri,
        did: &record.did,
        collection: &record.collection,
        rkey: &record.rkey,
        cid: record.cid.as_deref(),
        rev: &record.rev,
        seq: record.seq,
        source: &record.source,
        time: &record.time,
        record: sent,
        omitted: (body.is_some() && sent.is_none()).into(),
        deleted: body.is_none().into(),
        validity: record.validity.as_deref(),
        invalid_reason: record
            .invalid_reason
            .as_deref()
            .map(|text| without_nul(text).into_owned()),
        refused_cid: record.refused_cid.as_deref(),
        verified: &record.verified,
        first_indexed_at: &record.first_indexed_at,
        last_indexed_at: &record.last_indexed_at,
        epoch: change.epoch.as_str(),
        change: change.number,
    }
}
