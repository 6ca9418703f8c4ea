//! What the consumers have to know of a feed: its epochs, by which two changes are compared.

use async_nats::jetstream::kv;
use serde::{Deserialize, Serialize};

use super::connection::{Connection, unavailable};
use super::lease::LEASE;
use super::options::Layout;
use super::streams;
use crate::model::{Epoch, Feed, RandomId};
use crate::sink::SinkError;

/// The value of a feed's key.
#[derive(Deserialize, Serialize)]
struct Kept {
    /// The id of each epoch, and the first number that it could give out.
    epochs: Vec<(RandomId, u64)>,
    last: u64,
}

/// Keeps what the database knows of its feed. A consumer that reads a change finds its epoch.
pub(super) async fn keep(
    connection: &Connection,
    layout: &Layout,
    feed: &Feed,
) -> Result<(), SinkError> {
    let epochs = feed.epochs.iter();
    let kept = Kept {
        epochs: epochs
            .map(|epoch| (epoch.id.clone(), epoch.first_change))
            .collect(),
        last: feed.last,
    };
    let value = serde_json::to_vec(&kept).map_err(SinkError::unavailable)?;
    let keeping = async {
        let store = streams::bucket(&connection.context, layout, layout.feeds(), None).await?;
        let put = store.put(feed.id.as_str(), value.into()).await;
        put.map_err(|error| unavailable("cannot keep the epochs of the feed", error))
    };
    connection.run(keeping).await?;
    Ok(())
}

/// What the bucket `feeds` has of feed `id`; `None` if nothing.
pub(super) async fn read(
    connection: &Connection,
    feeds: &kv::Store,
    id: &RandomId,
) -> Result<Option<Feed>, SinkError> {
    let reading = async {
        let value = feeds.get(id.as_str()).await;
        value.map_err(|error| unavailable("cannot read the epochs of a feed", error))
    };
    let Some(value) = connection.run_within(LEASE, reading).await? else {
        return Ok(None);
    };
    let kept: Kept = serde_json::from_slice(&value)
        .map_err(|error| unavailable("the epochs of a feed are not readable", error))?;
    let epoch = |(id, first_change)| Epoch { id, first_change };
    Ok(Some(Feed {
        id: id.clone(),
        epochs: kept.epochs.into_iter().map(epoch).collect(),
        last: kept.last,
    }))
}
