//! The rows of `accounts`, and what follows from a removal.

use serde::Serialize;

use super::statement::{Statement, push_rows};
use crate::model::{Change, ChangedAccount, Feed};
use crate::sink::SinkError;
use crate::sink::nul::without_nul;

/// The rows of `?2`.
macro_rules! item {
    () => {
        "(SELECT value ->> 'did' AS did, value ->> 'handle' AS handle, \
         value ->> 'handle_status' AS handle_status, value ->> 'active' AS active, \
         value ->> 'status' AS status, value ->> 'as_of' AS as_of, \
         value ->> 'updated_at' AS updated_at, value ->> 'removed_at' AS removed_at, \
         value ->> 'removal_epoch' AS removal_epoch, value ->> 'removal_change' AS removal_change, \
         ?1 AS feed, value ->> 'epoch' AS epoch, value ->> 'change' AS change \
         FROM json_each(?2)) AS item "
    };
}

/// Whether a row replaces the one that is held. From the same feed the later change does: the database has
/// judged already. From another one, and where the change that wrote the row was lost, the later time
/// does; from the same feed an equal one too.
macro_rules! replaces {
    ($row:literal) => {
        concat!(
            "CASE WHEN held.feed = ",
            $row,
            ".feed AND EXISTS (SELECT 1 FROM sink_epochs AS known \
             WHERE known.feed = held.feed AND known.epoch = held.epoch \
             AND held.change <= coalesce(known.through, 9223372036854775807)) \
             THEN ",
            $row,
            ".change >= held.change \
             WHEN held.feed = ",
            $row,
            ".feed AND held.epoch = ",
            $row,
            ".epoch AND NOT EXISTS (SELECT 1 FROM sink_epochs AS known \
             WHERE known.feed = held.feed AND known.epoch = held.epoch) \
             THEN ",
            $row,
            ".change >= held.change \
             WHEN held.feed = ",
            $row,
            ".feed \
             THEN (",
            $row,
            ".as_of, ",
            $row,
            ".updated_at) >= (held.as_of, held.updated_at) \
             ELSE (",
            $row,
            ".as_of, ",
            $row,
            ".updated_at) > (held.as_of, held.updated_at) END "
        )
    };
}

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

/// Marks the removals that the sink does not know yet, of accounts whose rows will be replaced.
const MARK_REMOVALS: &str = concat!(
    "INSERT INTO account_removals (did, feed, epoch, change, removed_at, done_through) \
     SELECT item.did, item.feed, item.removal_epoch, item.removal_change, item.removed_at, \
     'at://' || item.did || '/' FROM ",
    item!(),
    "LEFT JOIN accounts AS held ON held.did = item.did \
     WHERE (item.removed_at IS NOT NULL OR item.removal_change IS NOT NULL) \
     AND (held.removal_feed, held.removal_epoch, held.removal_change, held.removed_at) \
     IS NOT (item.feed, item.removal_epoch, item.removal_change, item.removed_at) \
     AND (held.did IS NULL OR ",
    replaces!("item"),
    ") ON CONFLICT (did, feed) DO UPDATE SET epoch = excluded.epoch, change = excluded.change, \
     removed_at = excluded.removed_at, done_through = excluded.done_through"
);

const WRITE: &str = concat!(
    "INSERT INTO accounts AS held (did, handle, handle_status, active, status, as_of, updated_at, \
     removed_at, removal_feed, removal_epoch, removal_change, feed, epoch, change) \
     SELECT item.did, item.handle, item.handle_status, item.active, item.status, item.as_of, \
     item.updated_at, item.removed_at, \
     CASE WHEN item.removed_at IS NOT NULL OR item.removal_change IS NOT NULL THEN item.feed END, \
     item.removal_epoch, item.removal_change, item.feed, item.epoch, item.change FROM ",
    item!(),
    "WHERE true ON CONFLICT (did) DO UPDATE SET handle = excluded.handle, \
     handle_status = excluded.handle_status, active = excluded.active, \
     status = excluded.status, as_of = excluded.as_of, updated_at = excluded.updated_at, ",
    later_removal!("removed_at"),
    later_removal!("removal_feed"),
    later_removal!("removal_epoch"),
    later_removal!("removal_change"),
    "feed = excluded.feed, epoch = excluded.epoch, change = excluded.change WHERE ",
    replaces!("excluded")
);

#[derive(Serialize)]
struct Row<'a> {
    did: &'a str,
    handle: Option<&'a str>,
    handle_status: &'a str,
    active: u8,
    status: Option<String>,
    as_of: &'a str,
    updated_at: &'a str,
    removed_at: Option<&'a str>,
    /// The epoch of the change that removed what the account had written.
    removal_epoch: Option<&'a str>,
    removal_change: Option<u64>,
    epoch: &'a str,
    change: u64,
}

/// Adds what writes accounts. The records of those that are removed are hidden from then on.
pub(super) fn write(
    batch: &mut Vec<Statement>,
    feed: &Feed,
    changes: &[(&Change, &ChangedAccount)],
) -> Result<(), SinkError> {
    let removed = changes
        .iter()
        .filter(|(_, account)| account.removed_at.is_some() || account.removal_change.is_some());
    let id = feed.id.as_str();
    push_rows(
        batch,
        MARK_REMOVALS,
        id,
        removed.map(|change| row(feed, *change)),
    )?;
    push_rows(
        batch,
        WRITE,
        id,
        changes.iter().map(|change| row(feed, *change)),
    )
}

fn row<'a>(feed: &'a Feed, (change, account): (&'a Change, &'a ChangedAccount)) -> Row<'a> {
    let removal_epoch = account
        .removal_change
        .and_then(|change| feed.epoch_of(change));
    Row {
        did: &account.did,
        handle: account.handle.as_deref(),
        handle_status: &account.handle_status,
        active: account.is_active.into(),
        status: account
            .status
            .as_deref()
            .map(|text| without_nul(text).into_owned()),
        as_of: &account.time,
        updated_at: &account.updated_at,
        removed_at: account.removed_at.as_deref(),
        removal_epoch: removal_epoch.map(|epoch| epoch.as_str()),
        removal_change: account.removal_change,
        epoch: change.epoch.as_str(),
        change: change.number,
    }
}
