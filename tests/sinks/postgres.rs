//! A worker's database and a Postgres sink in this process, so that a test can do each step.

use std::sync::Arc;

use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::sink::{Follower, Pace, Parts, SinkError, SinkOptions, TableOptions};
use huddle_firehose::store::change_feed::ChangeFeed;
use huddle_firehose::store::sqlite::SqliteStore;
use test_support::postgres::Schema;

pub(crate) fn tables() -> TableOptions {
    TableOptions {
        request_days: 30,
        views: Arc::default(),
    }
}

/// A follower of `store`'s feed with a sink in `schema`.
pub(crate) fn follower(schema: &Schema, store: &Arc<SqliteStore>, name: &str) -> Follower {
    follower_at(&schema.url(), store, name)
}

/// A follower of `store`'s feed with the sink that `url` names.
pub(crate) fn follower_at(url: &str, store: &Arc<SqliteStore>, name: &str) -> Follower {
    let options = SinkOptions::new(Some(name), url).unwrap();
    let feed: Arc<dyn ChangeFeed> = store.clone();
    Follower::new(Parts {
        name: name.into(),
        sink: options.build(&tables(), &feed),
        feed,
        share: Budget::with_sinks(64 << 20, 1).sink_share(),
        retries: 3,
    })
}

/// Follows the feed to its end.
pub(crate) async fn follow(follower: &mut Follower) {
    follower.ask_for_upkeep();
    for _ in 0..10_000 {
        match follower.step().await {
            Ok(Pace::CaughtUp) => return,
            Ok(Pace::Next(_) | Pace::Refused(_)) | Err(SinkError::Superseded) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never caught up");
}
