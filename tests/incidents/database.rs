//! Incident 11: a database that other processes lock, and duplicate rows in a batch. Holds
//! invariants 2.1 and 4.2.

use std::time::Duration;

use huddle_firehose::config::Config;
use sqlx::Executor;
use test_support::mock_relay::relay;
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::eventually;

use crate::log_builder::{ANN, BOB, LogBuilder, last_seq};
use crate::{index_with, numbers};

#[tokio::test]
async fn incident_11_duplicate_rows_in_a_batch_are_written_once() {
    let mut log_builder = LogBuilder::new();
    for n in 1..=5 {
        for rkey in ["c", "a", "b"] {
            log_builder.put(BOB, &format!("com.huddle.note/{rkey}"), n);
            log_builder.put(ANN, &format!("com.huddle.note/{rkey}"), n);
        }
    }
    let in_one_transaction = Config {
        batch_frames: 100,
        batch_wait: Duration::from_millis(50),
        index_batch: 100,
        ..config()
    };
    let database = index_with(in_one_transaction, log_builder.log).await;
    let expected = ["ann", "bob"]
        .map(|name| ["a", "b", "c"].map(|rkey| format!("{name}/com.huddle.note/{rkey} 5")));
    assert_eq!(numbers(&database).await, expected.concat());
    let letters = database.rows("SELECT error FROM dead_letters").await;
    assert_eq!(letters, [""; 0]);
}

#[tokio::test]
async fn incident_11_a_database_that_is_locked_at_times_loses_nothing() {
    let (mut log_builder, database) = (LogBuilder::new(), Database::new());
    let relay = relay(Vec::new()).await;
    let worker = Worker::start_with(config(), &relay, database.impatient_store().await).await;
    eventually("the cursor has been read", || {
        worker.tree.context().ledger.is_positioned()
    })
    .await;
    for round in 0..3 {
        let mut lock = database.lock().await;
        let sent = log_builder.log.len();
        for n in 0..10 {
            log_builder.put(ANN, &format!("com.huddle.note/{round}-{n}"), n);
        }
        for frame in &log_builder.log[sent..] {
            relay.push(frame.clone());
        }
        let is_blocked = || worker.status().queue.blocked.is_some();
        eventually("the database is known to be locked", is_blocked).await;
        lock.execute("ROLLBACK").await.unwrap();
        worker.reaches(last_seq(&log_builder.log)).await;
    }
    worker.assert_restarted(&[]);
    worker.drain().await;
    assert_eq!(numbers(&database).await.len(), 30);
}
