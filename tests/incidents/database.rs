//! Incident 11: a database that is shared, and rows that stand twice in a batch.

use std::time::Duration;

use huddle_firehose::config::Config;
use sqlx::Executor;
use test_support::mock_relay::relay;
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::eventually;

use crate::scribe::{ANN, BOB, Scribe, last_seq};
use crate::{index_with, numbers};

#[tokio::test]
async fn incident_11_rows_that_stand_twice_in_a_batch_and_in_any_order_are_written_once() {
    let mut scribe = Scribe::new();
    for n in 1..=5 {
        for rkey in ["c", "a", "b"] {
            scribe.put(BOB, &format!("com.huddle.note/{rkey}"), n);
            scribe.put(ANN, &format!("com.huddle.note/{rkey}"), n);
        }
    }
    let in_one_transaction = Config {
        batch_frames: 100,
        batch_wait: Duration::from_millis(50),
        index_batch: 100,
        ..config()
    };
    let database = index_with(in_one_transaction, scribe.log).await;
    let expected = ["ann", "bob"]
        .map(|name| ["a", "b", "c"].map(|rkey| format!("{name}/com.huddle.note/{rkey} 5")));
    assert_eq!(numbers(&database).await, expected.concat());
    let letters = database.rows("SELECT error FROM dead_letters").await;
    assert_eq!(letters, [""; 0]);
}

#[tokio::test]
async fn incident_11_a_database_that_others_lock_now_and_then_loses_nothing() {
    let (mut scribe, database) = (Scribe::new(), Database::new());
    let relay = relay(Vec::new()).await;
    let worker = Worker::start_with(config(), &relay, database.impatient_store().await).await;
    eventually("the cursor has been read", || {
        worker.tree.context().ledger.is_positioned()
    })
    .await;
    for round in 0..3 {
        let mut lock = database.lock().await;
        let sent = scribe.log.len();
        for n in 0..10 {
            scribe.put(ANN, &format!("com.huddle.note/{round}-{n}"), n);
        }
        for frame in &scribe.log[sent..] {
            relay.push(frame.clone());
        }
        let is_blocked = || worker.status().queue.blocked.is_some();
        eventually("the database is known to be locked", is_blocked).await;
        lock.execute("ROLLBACK").await.unwrap();
        worker.reaches(last_seq(&scribe.log)).await;
    }
    worker.assert_restarted(&[]);
    worker.drain().await;
    assert_eq!(numbers(&database).await.len(), 30);
}
