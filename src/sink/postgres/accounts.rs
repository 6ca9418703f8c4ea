//! The rows of `accounts`, and what follows from a removal.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::position::integer;
use crate::model::{Change, ChangedAccount, Feed};
use crate::sink::SinkError;
use crate::sink::nul::without_nul;

/// Accounts whose removal the sink does not know yet. The arguments: the feed, then a column each.
const NEW_REMOVALS: &str = "SELECT item.did \
     FROM UNNEST($2::text[], $3::text[], $4::text[], $5::bigint[]) \
     AS item (did, removed_at, removal_epoch, removal_change) \
     LEFT JOIN accounts AS held ON held.did = item.did \
     WHERE (item.removed_at IS NOT NULL OR item.removal_change IS NOT NULL) AND ROW (held.removal_feed, held.removal_epoch, \
     held.removal_change, held.removed_at) IS DISTINCT FROM \
     ROW ($1::text, item.removal_epoch, item.removal_change, item.removed_at::timestamptz)";

/// Sets a column of the latest removal. A feed that knows of none, or of an older one than another feed
/// has told of, changes nothing.
macro_rules! later_removal {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN excluded.removal_feed IS NOT NULL AND (held.removed_at IS NULL \
             OR held.removal_feed = excluded.feed OR excluded.removed_at >= held.removed_at) \
             THEN excluded.",
            $column,
            " ELSE held.",
            $column,
            " END, "
        )
    };
}

/// From the same feed the later change replaces: the database has judged already. From another one, and
/// where the change that wrote the row was lost, the later time does; from the same feed an equal one too.
const WRITE: &str = concat!(
    "INSERT INTO accounts AS held (did, handle, active, status, as_of, updated_at, removed_at, \
     handle_status, removal_feed, removal_epoch, removal_change, feed, epoch, change) \
     SELECT item.did, item.handle, item.active, item.status, item.as_of::timestamptz, \
     item.updated_at::timestamptz, item.removed_at::timestamptz, item.handle_status, \
     CASE WHEN item.removed_at IS NOT NULL OR item.removal_change IS NOT NULL \
     THEN $1::text END, item.removal_epoch, \
     item.removal_change, $1::text, item.epoch, item.change \
     FROM UNNEST($2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::text[], \
     $8::text[], $9::text[], $10::bigint[], $11::text[], $12::bigint[], $13::text[]) \
     AS item (did, handle, active, status, as_of, updated_at, removed_at, removal_epoch, \
     removal_change, epoch, change, handle_status) \
     ON CONFLICT (did) DO UPDATE SET handle = excluded.handle, \
     handle_status = excluded.handle_status, active = excluded.active, \
     status = excluded.status, as_of = excluded.as_of, updated_at = excluded.updated_at, ",
    later_removal!("removed_at"),
    later_removal!("removal_feed"),
    later_removal!("removal_epoch"),
    later_removal!("removal_change"),
    "feed = excluded.feed, epoch = excluded.epoch, change = excluded.change \
     WHERE CASE WHEN held.feed = excluded.feed AND EXISTS (SELECT 1 FROM sink_epochs AS known \
     WHERE known.feed = held.feed AND known.epoch = held.epoch \
     AND held.change <= coalesce(known.through, 9223372036854775807)) \
     THEN excluded.change >= held.change \
     WHEN held.feed = excluded.feed AND held.epoch = excluded.epoch \
     AND NOT EXISTS (SELECT 1 FROM sink_epochs AS known \
     WHERE known.feed = held.feed AND known.epoch = held.epoch) \
     THEN excluded.change >= held.change \
     WHEN held.feed = excluded.feed \
     THEN (excluded.as_of, excluded.updated_at) >= (held.as_of, held.updated_at) \
     ELSE (excluded.as_of, excluded.updated_at) > (held.as_of, held.updated_at) END \
     RETURNING did"
);

/// The arguments: the feed, then a column each.
const MARK_REMOVALS: &str = "INSERT INTO account_removals (did, feed, epoch, change, removed_at, \
     done_through) SELECT item.did, $1, item.epoch, item.change, item.removed_at::timestamptz, \
     'at://' || item.did || '/' \
     FROM UNNEST($2::text[], $3::text[], $4::bigint[], $5::text[]) \
     AS item (did, epoch, change, removed_at) \
     ON CONFLICT (did, feed) DO UPDATE SET epoch = excluded.epoch, change = excluded.change, \
     removed_at = excluded.removed_at, done_through = excluded.done_through";

/// Writes accounts. Returns whether this began to remove the records of some of them.
pub(super) async fn write(
    connection: &mut PgConnection,
    feed: &Feed,
    changes: &[(&Change, &ChangedAccount)],
) -> Result<bool, SinkError> {
    if changes.is_empty() {
        return Ok(false);
    }
    let new_removals = new_removals(connection, feed, changes).await?;
    let written = upsert(connection, feed, changes).await?;
    let removed: Vec<&ChangedAccount> = changes
        .iter()
        .map(|(_, account)| *account)
        .filter(|account| new_removals.contains(&*account.did) && written.contains(&*account.did))
        .collect();
    if removed.is_empty() {
        return Ok(false);
    }
    sqlx::query(MARK_REMOVALS)
        .bind(feed.id.as_str())
        .bind(column(&removed, |account| &*account.did))
        .bind(column(&removed, |account| removal_epoch(feed, account)))
        .bind(column(&removed, |account| {
            account.removal_change.map(integer)
        }))
        .bind(column(&removed, |account| account.removed_at.as_deref()))
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(true)
}

async fn new_removals(
    connection: &mut PgConnection,
    feed: &Feed,
    changes: &[(&Change, &ChangedAccount)],
) -> Result<HashSet<String>, SinkError> {
    let removed = changes.iter().map(|(_, account)| *account);
    let removed: Vec<&ChangedAccount> = removed
        .filter(|account| account.removed_at.is_some() || account.removal_change.is_some())
        .collect();
    if removed.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = sqlx::query(NEW_REMOVALS)
        .bind(feed.id.as_str())
        .bind(column(&removed, |account| &*account.did))
        .bind(column(&removed, |account| account.removed_at.as_deref()))
        .bind(column(&removed, |account| removal_epoch(feed, account)))
        .bind(column(&removed, |account| {
            account.removal_change.map(integer)
        }))
        .persistent(false)
        .fetch_all(connection)
        .await?;
    let dids = rows.iter().map(|row| row.try_get(0));
    Ok(dids.collect::<Result<_, sqlx::Error>>()?)
}

async fn upsert(
    connection: &mut PgConnection,
    feed: &Feed,
    changes: &[(&Change, &ChangedAccount)],
) -> Result<HashSet<String>, SinkError> {
    let rows = sqlx::query(WRITE)
        .bind(feed.id.as_str())
        .bind(column(changes, |(_, account)| &*account.did))
        .bind(column(changes, |(_, account)| account.handle.as_deref()))
        .bind(column(changes, |(_, account)| i16::from(account.is_active)))
        .bind(column(changes, |(_, account)| {
            account.status.as_deref().map(without_nul)
        }))
        .bind(column(changes, |(_, account)| &*account.time))
        .bind(column(changes, |(_, account)| &*account.updated_at))
        .bind(column(changes, |(_, account)| {
            account.removed_at.as_deref()
        }))
        .bind(column(changes, |(_, account)| removal_epoch(feed, account)))
        .bind(column(changes, |(_, account)| {
            account.removal_change.map(integer)
        }))
        .bind(column(changes, |(change, _)| change.epoch.as_str()))
        .bind(column(changes, |(change, _)| integer(change.number)))
        .bind(column(changes, |(_, account)| &*account.handle_status))
        .persistent(false)
        .fetch_all(connection)
        .await?;
    let dids = rows.iter().map(|row| row.try_get(0));
    Ok(dids.collect::<Result<_, sqlx::Error>>()?)
}

/// The epoch of the change that removed what the account had written.
fn removal_epoch<'a>(feed: &'a Feed, account: &ChangedAccount) -> Option<&'a str> {
    let epoch = feed.epoch_of(account.removal_change?)?;
    Some(epoch.as_str())
}

/// A column of rows, as one argument.
pub(super) fn column<'a, T, C>(rows: &'a [T], of: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(of).collect()
}
