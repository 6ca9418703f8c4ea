//! A D1 sink in this process, so that a test can do each step.

use std::path::Path;
use std::sync::Arc;

use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::sink::{Follower, Pace, Parts, SinkError, SinkOptions};
use huddle_firehose::store::change_feed::ChangeFeed;
use huddle_firehose::store::sqlite::SqliteStore;
use test_support::d1::D1;
use tokio::time::sleep;

use crate::postgres::tables;

/// A database of its own.
pub(crate) async fn database() -> Option<D1> {
    D1::new(Path::new(env!("CARGO_TARGET_TMPDIR"))).await
}

/// A follower of `store`'s feed with a sink at `url`.
pub(crate) fn follower(url: &str, store: &Arc<SqliteStore>, name: &str) -> Follower {
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

/// Follows the feed to its end; returns the errors on the way.
pub(crate) async fn follow(follower: &mut Follower) -> Vec<SinkError> {
    let mut errors = Vec::new();
    follower.ask_for_upkeep();
    for _ in 0..10_000 {
        match follower.step().await {
            Ok(Pace::CaughtUp) => return errors,
            Ok(Pace::Next(_) | Pace::Refused(_)) => {}
            Err(error) => {
                wait_as_asked(&error).await;
                errors.push(error);
            }
        }
        assert!(errors.len() < 1000, "{errors:?}");
    }
    panic!("it never caught up: {:?}", errors.last());
}

/// Waits as long as the sink asks for.
pub(crate) async fn wait_as_asked(error: &SinkError) {
    if let SinkError::Unavailable {
        retry_after: Some(pause),
        ..
    } = error
    {
        sleep(*pause).await;
    }
}

/// The same where nothing fails.
pub(crate) async fn follow_well(follower: &mut Follower) {
    follower.ask_for_upkeep();
    for _ in 0..10_000 {
        match follower.step().await {
            Ok(Pace::CaughtUp) => return,
            Ok(Pace::Next(_) | Pace::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never caught up");
}
