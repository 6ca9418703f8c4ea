//! The program as a consumer, as an operator starts it, and the worker that fills its queue.

use std::num::NonZeroU32;
use std::sync::Arc;

use huddle_firehose::model::{Epoch, Feed, RandomId};
use huddle_firehose::sink::target::Feeds;
use huddle_firehose::sink::task::Task;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use serde_json::json;
use test_support::mock_relay::relay_with;
use test_support::nats::Queue;
use test_support::postgres::Schema;
use test_support::recorded_frames::frames;
use test_support::tables::Database;
use test_support::waiting::{POLL_INTERVAL, SLOT_TIMEOUT};
use test_support::worker_process::{self, Program};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::nats::{follow, follower};

pub(crate) const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");

/// A consumer that listens.
pub(crate) fn consume(from: &str, into: &str) -> Command {
    let mut command = Command::from(worker_process::command(PATH));
    command
        .args(["consume", "--listen", "127.0.0.1:0"])
        .args(["--from", from, "--into", into]);
    command
}

/// A worker before `relay` whose sink is `queue`.
pub(crate) fn produce(relay: &MockRelay, database: &Database, sink: &str) -> Command {
    let mut command = Command::from(worker_process::command(PATH));
    command
        .args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
        .args(["--batch-frames", "8", "--index-batch", "10"])
        .args(["--source-url", &relay.url()])
        .args(["--database-url", &database.url()])
        .args(["--sink", sink]);
    command
}

/// A relay that sends the recording slowly.
pub(crate) async fn slow_relay(rate: u32) -> MockRelay {
    let options = Options {
        rate: NonZeroU32::new(rate),
        ..Options::default()
    };
    relay_with(frames(), options).await
}

/// Puts everything that `store` has into the queue.
pub(crate) async fn deliver(store: &Arc<SqliteStore>, queue: &Queue) {
    assert_eq!(follow(&mut follower(store, &queue.url())).await, []);
}

/// Waits until nothing waits in the queue.
pub(crate) async fn until_empty(queue: &Queue) {
    until("the queue is empty", async || queue.count().await == 0).await;
}

/// Waits until a condition holds that takes its time to ask.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + 2 * SLOT_TIMEOUT;
    while !condition().await {
        assert!(Instant::now() < deadline, "never came to pass: {what}");
        sleep(10 * POLL_INTERVAL).await;
    }
}

/// Waits until the consumer has created the tables.
pub(crate) async fn until_tables(schema: &Schema) {
    until("the tables are there", async || has_tables(schema).await).await;
}

async fn has_tables(schema: &Schema) -> bool {
    let exists = schema.column("SELECT coalesce(to_regclass('records')::text, '-')");
    exists.await[0] != "-"
}

/// The rows of records in the target; 0 while it has no tables.
pub(crate) async fn records(schema: &Schema) -> usize {
    if !has_tables(schema).await {
        return 0;
    }
    let count = schema.column("SELECT count(*)::text FROM records").await;
    count[0].parse().unwrap()
}

/// A number of `/status`, below `consumption`.
pub(crate) async fn number(program: &Program, name: &str) -> u64 {
    program.status().await["consumption"][name]
        .as_u64()
        .unwrap_or_default()
}

/// A version of one record.
pub(crate) fn task(epoch: &str, change: u64, rev: &str) -> Task {
    Task::parse(body(epoch, change, rev).as_bytes()).unwrap()
}

/// The same as a queue has it.
pub(crate) fn body(epoch: &str, change: u64, rev: &str) -> String {
    let task = json!({
        "type": "upsert", "collection": "com.huddle.note", "did": "did:plc:ann", "rkey": "a",
        "uri": "at://did:plc:ann/com.huddle.note/a", "record": { "n": change }, "cid": "bafy",
        "timestamp": "2026-01-01T00:00:00.000Z", "rev": rev, "seq": change, "source": "wss://relay",
        "feed": "f", "epoch": epoch, "change": change, "verified": "none",
        "first_indexed_at": "2026-01-01T00:00:00.000Z",
        "last_indexed_at": "2026-01-01T00:00:00.000Z",
    });
    task.to_string()
}

/// What is known of the feed of [`task`]: its epochs, each with its first change, and its last change.
pub(crate) fn feeds(epochs: &[(&str, u64)], last: u64) -> Feeds {
    let id = RandomId::new("f");
    let epochs = epochs.iter().map(|(epoch, first_change)| Epoch {
        id: RandomId::new(epoch),
        first_change: *first_change,
    });
    let feed = Feed {
        id: id.clone(),
        epochs: epochs.collect(),
        last,
    };
    Feeds::from([(id, feed)])
}

/// Two revs.
pub(crate) const HIGH: &str = "3k33333333333";
pub(crate) const LOW: &str = "3k22222222222";
