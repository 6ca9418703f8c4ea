//! The positions of sinks that keep none.

use super::script::Script;
use super::writer::{Failure, Writer};
use super::{SqliteStore, integer, now};
use crate::model::{FeedPosition, RandomId};
use crate::store::StoreError;

pub(super) async fn target(store: &SqliteStore, sink: &str) -> Result<Option<String>, StoreError> {
    let target = sqlx::query_scalar("SELECT target FROM sink_positions WHERE sink = ?");
    Ok(target.bind(sink).fetch_optional(store.reader()).await?)
}

pub(super) async fn read(
    store: &SqliteStore,
    sink: &str,
    target: &str,
) -> Result<Option<FeedPosition>, StoreError> {
    let row: Option<(String, String, i64)> = sqlx::query_as(
        "SELECT feed, epoch, change FROM sink_positions, change_feed WHERE sink = ? AND target = ?",
    )
    .bind(sink)
    .bind(target)
    .fetch_optional(store.reader())
    .await?;
    Ok(row.map(|(feed, epoch, change)| FeedPosition {
        feed: RandomId::new(&feed),
        epoch: RandomId::new(&epoch),
        change: change.unsigned_abs(),
    }))
}

pub(super) async fn keep(
    writer: &Writer,
    sink: &str,
    target: &str,
    position: &FeedPosition,
) -> Result<(), StoreError> {
    let mut script = Script::default();
    script.push(
        "REPLACE INTO sink_positions (sink, epoch, change, target, updated_at) VALUES (?, ?, ?, ?, ?)",
        [
            sink.into(),
            position.epoch.as_str().into(),
            integer(position.change).into(),
            target.into(),
            now().into(),
        ],
    );
    let transaction = writer.begin().await?;
    transaction
        .commit_with(script)
        .await
        .map_err(Failure::into_store)
}
