//! How soon another consumer applies what a killed one had in hand.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::model::{Position, SourceId};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::store::{Store, WriteBatch};
use serde_json::json;
use sqlx::Executor;
use test_support::nats::Queue;
use test_support::postgres::Schema;
use test_support::worker_process::{Program, command};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::{database, runtime, sink_feed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_huddle-firehose");
const ROUNDS: usize = 5;
const PARTITIONS: u32 = 4;
/// Tasks of a partition. Together they are a few transactions.
const TASKS: u64 = 50;
/// Consumers share the partitions and take what is there within this time.
const SETTLING: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const COUNT: &str = "SELECT count(*)::text FROM records";

pub(crate) fn measure() {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| runtime().block_on(take_over()))
        .collect();
    rounds.sort();
    println!(
        "\ntake-over from a killed consumer: median {:.1} s, most {:.1} s",
        rounds[ROUNDS / 2].as_secs_f64(),
        rounds[ROUNDS - 1].as_secs_f64()
    );
}

/// The time from the death of one of two consumers to the commit of all that both had in hand.
async fn take_over() -> Duration {
    let (queue, schema) = (Queue::new().await.unwrap(), Schema::new().await.unwrap());
    create_stream(&queue).await;
    let mut killed = consume(&queue, &schema).await;
    let _other = consume(&queue, &schema).await;
    sleep(SETTLING).await;
    // Both have their tasks in hand while the table is locked.
    let mut lock = schema.connect().await;
    let locked = lock.execute("BEGIN; LOCK TABLE records IN EXCLUSIVE MODE");
    locked.await.unwrap();
    for partition in 0..PARTITIONS {
        for number in 1..=TASKS {
            queue.publish(partition, &task(partition, number)).await;
        }
    }
    sleep(SETTLING / 5).await;
    killed.child.kill().await.unwrap();
    let died_at = Instant::now();
    lock.execute("ROLLBACK").await.unwrap();
    let all = (u64::from(PARTITIONS) * TASKS).to_string();
    while schema.column(COUNT).await != [all.as_str()] {
        sleep(POLL_INTERVAL).await;
    }
    died_at.elapsed()
}

/// A sink creates the stream. It has nothing to deliver.
async fn create_stream(queue: &Queue) {
    let folder = tempfile::tempdir().unwrap();
    let url = database::url(&folder.path().join("worker.db"));
    let store = SqliteStore::open(&url).await.unwrap();
    let begun = WriteBatch {
        source: &SourceId::new("wss://relay.example/"),
        effects: &[],
        position: Position { seq: 1, time: None },
        sequence_restarted: false,
    };
    store.apply(&begun).await.unwrap();
    sink_feed::deliver_from(Arc::new(store), &queue.url()).await;
}

async fn consume(queue: &Queue, schema: &Schema) -> Program {
    let mut consume = Command::from(command(PROGRAM));
    consume.args(["consume", "--listen", "127.0.0.1:0"]).args([
        "--from",
        &queue.url(),
        "--into",
        &schema.url(),
    ]);
    Program::start(consume).await
}

fn task(partition: u32, number: u64) -> String {
    let (did, rkey) = (format!("did:plc:p{partition}"), format!("r{number}"));
    json!({
        "type": "upsert", "collection": "com.huddle.note", "did": did, "rkey": rkey,
        "uri": format!("at://{did}/com.huddle.note/{rkey}"), "record": { "n": number }, "cid": "bafy",
        "timestamp": "2026-01-01T00:00:00.000Z", "rev": "3k22222222222", "seq": number,
        "source": "wss://relay.example/", "feed": "f", "epoch": "e",
        "change": u64::from(partition) * TASKS + number, "verified": "none",
        "first_indexed_at": "2026-01-01T00:00:00.000Z", "last_indexed_at": "2026-01-01T00:00:00.000Z",
    })
    .to_string()
}
