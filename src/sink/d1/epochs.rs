//! The epochs of feeds. Rows are judged by them: a change whose epoch is known is older or newer than
//! another one of the same feed by its number.

use serde::Serialize;

use super::statement::Statement;
use crate::model::Feed;
use crate::sink::SinkError;

/// The arguments: the feed, the rows.
macro_rules! forget {
    () => {
        "DELETE FROM sink_epochs WHERE feed = ?1 \
         AND epoch NOT IN (SELECT value ->> 'epoch' FROM json_each(?2)) "
    };
}

macro_rules! rows {
    () => {
        "INSERT INTO sink_epochs AS held (feed, epoch, through) \
         SELECT ?1, value ->> 'epoch', value ->> 'through' FROM json_each(?2) "
    };
}

macro_rules! replace {
    () => {
        "ON CONFLICT (feed, epoch) DO UPDATE SET through = excluded.through \
         WHERE held.through IS NOT excluded.through"
    };
}

/// The argument: the latest epoch.
macro_rules! is_news {
    () => {
        "NOT EXISTS (SELECT 1 FROM sink_epochs AS known WHERE known.feed = ?1 AND known.epoch = ?3) "
    };
}

const FORGET: &str = forget!();
const STORE: &str = concat!(rows!(), "WHERE true ", replace!());
const FORGET_AT_NEWS: &str = concat!(forget!(), "AND ", is_news!());
const STORE_NEWS: &str = concat!(rows!(), "WHERE ", is_news!(), replace!());

#[derive(Serialize)]
struct Row<'a> {
    epoch: &'a str,
    through: Option<u64>,
}

/// Adds what makes the database know the epochs of `feed`, and no others of it.
pub(super) fn store(batch: &mut Vec<Statement>, feed: &Feed) -> Result<(), SinkError> {
    let arguments = [feed.id.as_str().to_owned(), rows(feed)?];
    batch.push(Statement::new(FORGET, arguments.clone()));
    batch.push(Statement::new(STORE, arguments));
    Ok(())
}

/// Adds the same for a feed of which others tell as well, and some of them late: what has no epoch that
/// is new to the database changes nothing.
pub(super) fn learn(batch: &mut Vec<Statement>, feed: &Feed) -> Result<(), SinkError> {
    let Some(latest) = feed.epochs.last() else {
        return Ok(());
    };
    let id = feed.id.as_str().to_owned();
    let arguments = [id, rows(feed)?, latest.id.as_str().to_owned()];
    batch.push(Statement::new(FORGET_AT_NEWS, arguments.clone()));
    batch.push(Statement::new(STORE_NEWS, arguments));
    Ok(())
}

fn rows(feed: &Feed) -> Result<String, SinkError> {
    let rows = feed.epochs.iter().enumerate().map(|(index, epoch)| {
        let is_last = index + 1 == feed.epochs.len();
        Row {
            epoch: epoch.id.as_str(),
            through: (!is_last).then(|| feed.end_of(index)),
        }
    });
    serde_json::to_string(&rows.collect::<Vec<_>>()).map_err(SinkError::unavailable)
}
