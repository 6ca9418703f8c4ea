//! The rows of `records`.

use std::borrow::Cow;
use std::collections::HashSet;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::accounts::column;
use super::position::integer;
use crate::model::{Change, ChangedRecord, Feed};
use crate::sink::SinkError;
use crate::sink::nul::without_nul;

/// What was removed with its account is refused. From the same feed the later change replaces, whatever
/// its rev: the database has judged already. From another feed, and where the change that wrote the row
/// was lost, the higher rev does; at an equal one the later write. What was lost comes again at the same
/// rev and time, so from the same feed an equal one replaces too. A row that is being deleted with its
/// account counts as none.
const WRITE: &str = "WITH written AS ( \
     INSERT INTO records AS held (uri, did, collection, rkey, cid, rev, seq, source, time, record, \
     record_cbor, validity, invalid_reason, refused_cid, verified, first_indexed_at, last_indexed_at, \
     deleted, feed, epoch, change) \
     SELECT item.uri, item.did, item.collection, item.rkey, item.cid, item.rev, item.seq, \
     item.source, item.time::timestamptz, item.record::jsonb, item.record_cbor, item.validity, \
     item.invalid_reason, item.refused_cid, item.verified, item.first_indexed_at::timestamptz, \
     item.last_indexed_at::timestamptz, \
     CASE WHEN item.record IS NULL THEN 1 ELSE 0 END, $1::text, item.epoch, item.change \
     FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
     $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::text[], $14::text[], \
     $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::bigint[]) \
     AS item (uri, did, collection, rkey, cid, rev, seq, source, time, record, record_cbor, validity, \
     invalid_reason, refused_cid, verified, first_indexed_at, last_indexed_at, epoch, change) \
     LEFT JOIN accounts AS account ON account.did = item.did \
     WHERE account.removed_at IS NULL OR CASE \
     WHEN account.removal_feed = $1::text AND (account.removal_change IS NULL \
     OR EXISTS (SELECT 1 FROM sink_epochs AS known \
     WHERE known.feed = account.removal_feed AND known.epoch = account.removal_epoch \
     AND account.removal_change <= coalesce(known.through, 9223372036854775807))) \
     THEN item.change > coalesce(account.removal_change, 0) \
     ELSE least(item.time::timestamptz, item.last_indexed_at::timestamptz) > account.removed_at END \
     ON CONFLICT (uri) DO UPDATE SET cid = excluded.cid, rev = excluded.rev, seq = excluded.seq, \
     source = excluded.source, time = excluded.time, record = excluded.record, \
     record_cbor = excluded.record_cbor, validity = excluded.validity, \
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
     WHERE removed.did = held.did AND removed.uri = held.uri) \
     RETURNING uri), \
     refreshed AS (DELETE FROM stale_records USING written WHERE stale_records.uri = written.uri) \
     SELECT uri FROM written";

const HIDE: &str = "INSERT INTO stale_records (uri, did) \
     SELECT uri, did FROM UNNEST($1::text[], $2::text[]) AS item (uri, did) \
     ON CONFLICT (uri) DO NOTHING";

/// Writes records. Returns those that replaced what the sink had.
pub(super) async fn write<'a>(
    connection: &mut PgConnection,
    feed: &Feed,
    changes: &[(&Change, &'a ChangedRecord)],
) -> Result<Vec<&'a ChangedRecord>, SinkError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(WRITE)
        .bind(feed.id.as_str())
        .bind(column(changes, |(_, record)| &*record.uri))
        .bind(column(changes, |(_, record)| &*record.did))
        .bind(column(changes, |(_, record)| &*record.collection))
        .bind(column(changes, |(_, record)| &*record.rkey))
        .bind(column(changes, |(_, record)| record.cid.as_deref()))
        .bind(column(changes, |(_, record)| &*record.rev))
        .bind(column(changes, |(_, record)| integer(record.seq)))
        .bind(column(changes, |(_, record)| &*record.source))
        .bind(column(changes, |(_, record)| &*record.time))
        .bind(column(changes, |(_, record)| {
            record.record.as_deref().map(json)
        }))
        .bind(column(changes, |(_, record)| record.record_cbor.as_deref()))
        .bind(column(changes, |(_, record)| record.validity.as_deref()))
        .bind(column(changes, |(_, record)| {
            record.invalid_reason.as_deref().map(without_nul)
        }))
        .bind(column(changes, |(_, record)| record.refused_cid.as_deref()))
        .bind(column(changes, |(_, record)| &*record.verified))
        .bind(column(changes, |(_, record)| &*record.first_indexed_at))
        .bind(column(changes, |(_, record)| &*record.last_indexed_at))
        .bind(column(changes, |(change, _)| change.epoch.as_str()))
        .bind(column(changes, |(change, _)| integer(change.number)))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await?;
    let uris = rows.iter().map(|row| row.try_get(0));
    let uris: HashSet<&str> = uris.collect::<Result<_, sqlx::Error>>()?;
    let records = changes.iter().map(|(_, record)| *record);
    let written: Vec<&ChangedRecord> = records
        .filter(|record| uris.contains(&*record.uri))
        .collect();
    let stale: Vec<&ChangedRecord> = written
        .iter()
        .copied()
        .filter(|record| record.is_stale)
        .collect();
    if !stale.is_empty() {
        sqlx::query(HIDE)
            .bind(column(&stale, |record| &*record.uri))
            .bind(column(&stale, |record| &*record.did))
            .persistent(false)
            .execute(connection)
            .await?;
    }
    Ok(written)
}

/// jsonb has no place for U+0000, which is escaped there. A backslash before it may be one of an escaped
/// backslash.
fn json(json: &str) -> Cow<'_, str> {
    const NUL: &str = "\\u0000";
    if !json.contains(NUL) {
        return json.into();
    }
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        clean.push_str(&rest[..at]);
        rest = &rest[at..];
        let (written, length) = match rest.starts_with(NUL) {
            true => ("\\ufffd", NUL.len()),
            // A backslash and what it escapes, which is ASCII.
            false => {
                let length = 2.min(rest.len());
                (&rest[..length], length)
            }
        };
        clean.push_str(written);
        rest = &rest[length..];
    }
    clean.push_str(rest);
    clean.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_escaped_nul_is_replaced() {
        for (before, after) in [
            (r#"{"a":"\u0000"}"#, r#"{"a":"\ufffd"}"#),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (
                r#"{"a":"\\\u0000\n\u0000é"}"#,
                r#"{"a":"\\\ufffd\n\ufffdé"}"#,
            ),
            (r#"{"a":"u0000\""}"#, r#"{"a":"u0000\""}"#),
        ] {
            assert_eq!(json(before), after);
        }
    }
}
