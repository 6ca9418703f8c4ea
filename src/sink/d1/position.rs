//! The position of a feed in the sink, and the guard of each batch.

use super::client::Rows;
use super::epochs;
use super::statement::Statement;
use crate::model::{Feed, FeedPosition, RandomId};
use crate::sink::{Delivery, SinkError};

/// The arguments: the sink, the feed, the holder.
const IS_HELD: &str = "INSERT INTO sink_guard (ok) SELECT 0 WHERE NOT EXISTS ( \
     SELECT 1 FROM sink_positions WHERE sink = ?1 AND feed = ?2 AND holder = ?3)";

/// The arguments: the sink, the feed, the holder, the number.
const IS_AT: &str = "INSERT INTO sink_guard (ok) SELECT 0 WHERE NOT EXISTS ( \
     SELECT 1 FROM sink_positions WHERE sink = ?1 AND feed = ?2 AND holder = ?3 \
     AND change = CAST(?4 AS INTEGER))";

/// The arguments: the sink, the feed, the epoch, the number.
const MOVE: &str = "UPDATE sink_positions SET epoch = ?3, change = CAST(?4 AS INTEGER), \
     updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE sink = ?1 AND feed = ?2";

/// The arguments: the sink, the feed, the epoch, the holder.
const HOLD: &str = "INSERT INTO sink_positions AS held (sink, feed, epoch, change, holder, updated_at) \
     VALUES (?1, ?2, ?3, 0, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
     ON CONFLICT (sink, feed) DO UPDATE SET holder = excluded.holder";

/// As text: a number beyond 2^53 would come back rounded.
const READ: &str = "SELECT epoch, CAST(change AS TEXT) AS change FROM sink_positions \
     WHERE sink = ?1 AND feed = ?2";

/// Makes `holder` the only process that delivers the feed under this name, and stores the feed's epochs.
/// The last statement returns the position: see [`read`].
pub(super) fn take_over(
    sink: &str,
    feed: &Feed,
    holder: &str,
) -> Result<Vec<Statement>, SinkError> {
    let Some(beginning) = feed.position(0) else {
        return Err(SinkError::unavailable("the feed has no epoch yet"));
    };
    let mut batch = Vec::new();
    epochs::store(&mut batch, feed)?;
    let id = feed.id.as_str();
    let key = || [sink.to_owned(), id.to_owned()];
    let written = [beginning.epoch.as_str().to_owned(), holder.to_owned()];
    batch.push(Statement::new(HOLD, key().into_iter().chain(written)));
    batch.push(Statement::new(READ, key()));
    Ok(batch)
}

/// The position that the last statement of [`take_over`] returned.
pub(super) fn read(feed: &Feed, rows: &[Rows]) -> Result<FeedPosition, SinkError> {
    let row = rows.last();
    let epoch = row.and_then(|row| row.first("epoch"));
    let change = row.and_then(|row| row.first("change")?.parse().ok());
    let (epoch, change) = epoch
        .zip(change)
        .ok_or_else(|| SinkError::unavailable("the sink returned no position"))?;
    Ok(FeedPosition {
        feed: feed.id.clone(),
        epoch: RandomId::new(epoch),
        change,
    })
}

/// Sets the position to `after`, if it is still `holder`'s.
pub(super) fn set(sink: &str, feed: &Feed, holder: &str, after: u64) -> Vec<Statement> {
    let guard = [sink, feed.id.as_str(), holder].map(str::to_owned);
    vec![Statement::new(IS_HELD, guard), move_to(sink, feed, after)]
}

/// The first statement of a delivery. It fails, and the whole batch with it, unless the position is this
/// process's and where it left it. So a late or repeated request changes nothing.
pub(super) fn guard(sink: &str, delivery: Delivery<'_>, holder: &str) -> Statement {
    let feed = delivery.feed.id.as_str();
    let from = delivery.from.to_string();
    Statement::new(IS_AT, [sink, feed, holder, &from].map(str::to_owned))
}

/// The last statement of a delivery.
pub(super) fn advance(sink: &str, delivery: Delivery<'_>) -> Statement {
    move_to(sink, delivery.feed, delivery.to)
}

fn move_to(sink: &str, feed: &Feed, change: u64) -> Statement {
    let epoch = feed.epochs.last().map_or("", |epoch| epoch.id.as_str());
    let change = change.to_string();
    Statement::new(
        MOVE,
        [sink, feed.id.as_str(), epoch, &change].map(str::to_owned),
    )
}
