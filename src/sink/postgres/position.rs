//! The position of a feed in the sink.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::model::{Feed, FeedPosition, RandomId};
use crate::sink::{Delivery, SinkError};

/// Makes `holder` the only process that delivers the feed under this name, stores the feed's epochs, and
/// returns the number behind which delivery begins.
pub(super) async fn take_over(
    connection: &mut PgConnection,
    sink: &str,
    feed: &Feed,
    holder: &str,
) -> Result<u64, SinkError> {
    let Some(beginning) = feed.position(0) else {
        return Err(SinkError::unavailable("the feed has no epoch yet"));
    };
    store_epochs(connection, feed).await?;
    let row = sqlx::query(
        "INSERT INTO sink_positions AS held (sink, feed, epoch, change, holder) \
         VALUES ($1, $2, $3, 0, $4) \
         ON CONFLICT (sink, feed) DO UPDATE SET holder = excluded.holder \
         RETURNING epoch, change",
    )
    .bind(sink)
    .bind(feed.id.as_str())
    .bind(beginning.epoch.as_str())
    .bind(holder)
    .persistent(false)
    .fetch_one(&mut *connection)
    .await?;
    let change: i64 = row.try_get(1)?;
    let position = FeedPosition {
        feed: feed.id.clone(),
        epoch: RandomId::new(row.try_get(0)?),
        change: change.unsigned_abs(),
    };
    let after = feed.begin(Some(&position));
    move_to(connection, sink, feed, holder, (None, after)).await?;
    Ok(after)
}

/// Moves the position with a delivery.
pub(super) async fn advance(
    connection: &mut PgConnection,
    sink: &str,
    delivery: Delivery<'_>,
    holder: &str,
) -> Result<(), SinkError> {
    let step = (Some(delivery.from), delivery.to);
    move_to(connection, sink, delivery.feed, holder, step).await
}

/// Superseded if another process has taken over.
pub(super) async fn check_holder(
    connection: &mut PgConnection,
    sink: &str,
    holder: &str,
) -> Result<(), SinkError> {
    let is_held: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sink_positions WHERE sink = $1 AND holder = $2)",
    )
    .bind(sink)
    .bind(holder)
    .persistent(false)
    .fetch_one(connection)
    .await?;
    match is_held {
        true => Ok(()),
        false => Err(SinkError::Superseded),
    }
}

/// Sets the position, if the row is still this process's and where it left it.
async fn move_to(
    connection: &mut PgConnection,
    sink: &str,
    feed: &Feed,
    holder: &str,
    (from, to): (Option<u64>, u64),
) -> Result<(), SinkError> {
    let epoch = feed.epochs.last().map_or("", |epoch| epoch.id.as_str());
    let moved = sqlx::query(
        "UPDATE sink_positions SET epoch = $1, change = $2, updated_at = now() \
         WHERE sink = $3 AND feed = $4 AND holder = $5 AND ($6::bigint IS NULL OR change = $6)",
    )
    .bind(epoch)
    .bind(integer(to))
    .bind(sink)
    .bind(feed.id.as_str())
    .bind(holder)
    .bind(from.map(integer))
    .persistent(false)
    .execute(connection)
    .await?;
    match moved.rows_affected() {
        1 => Ok(()),
        _ => Err(SinkError::Superseded),
    }
}

/// Stores which epochs the feed has, and forgets others of it.
async fn store_epochs(connection: &mut PgConnection, feed: &Feed) -> Result<(), SinkError> {
    let known = feed.epochs.iter().enumerate();
    let (epochs, ends): (Vec<&str>, Vec<Option<i64>>) = known
        .map(|(index, epoch)| {
            let is_last = index + 1 == feed.epochs.len();
            let end = (!is_last).then(|| integer(feed.end_of(index)));
            (epoch.id.as_str(), end)
        })
        .unzip();
    sqlx::query("DELETE FROM sink_epochs WHERE feed = $1")
        .bind(feed.id.as_str())
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO sink_epochs (feed, epoch, through) \
         SELECT $1, epoch, through FROM UNNEST($2::text[], $3::bigint[]) AS known (epoch, through)",
    )
    .bind(feed.id.as_str())
    .bind(epochs)
    .bind(ends)
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(())
}

/// The same for a feed of which other processes tell as well, and some of them late: what has no epoch
/// that is new to the database changes nothing.
pub(super) async fn learn_epochs(
    connection: &mut PgConnection,
    feed: &Feed,
) -> Result<(), SinkError> {
    let Some(latest) = feed.epochs.last() else {
        return Ok(());
    };
    let known = "SELECT EXISTS (SELECT 1 FROM sink_epochs WHERE feed = $1 AND epoch = $2)";
    let is_known: bool = sqlx::query(known)
        .bind(feed.id.as_str())
        .bind(latest.id.as_str())
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    match is_known {
        true => Ok(()),
        false => store_epochs(connection, feed).await,
    }
}

/// No number of a change reaches 2^63.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
