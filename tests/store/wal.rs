//! The write-ahead log stays small. Holds invariant 12.7.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use huddle_firehose::model::{DeadLetter, Stage};
use huddle_firehose::store::Store;
use huddle_firehose::store::plan::effect::Effect;
use sqlx::Executor;

use crate::fixture::*;

/// More than SQLite keeps by itself, and far less than is written.
const BOUND: u64 = 128 << 20;
const LETTERS: u64 = 100;
const LETTER_BYTES: usize = 3 << 20;

fn large_letter(n: u64) -> Effect {
    Effect::DeadLetter(Box::new(DeadLetter {
        stage: Stage::Decode,
        error: "too large".to_owned(),
        seq: Some(n),
        did: None,
        uri: None,
        task: None,
        raw: vec![0; LETTER_BYTES].into(),
        attempts: 1,
    }))
}

/// Reads for a moment, again and again. Two of three readers are always in a transaction.
async fn read_until(database: &Database, is_over: &AtomicBool, offset: u64) {
    let mut reader = database.other_process().await;
    tokio::time::sleep(Duration::from_millis(100 * offset)).await;
    while !is_over.load(Ordering::Acquire) {
        reader.execute("BEGIN").await.unwrap();
        reader
            .execute("SELECT count(*) FROM records")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        reader.execute("COMMIT").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_overlap_do_not_let_the_log_grow() {
    let database = Arc::new(Database::new().await);
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|offset| {
            let (database, is_over) = (database.clone(), is_over.clone());
            tokio::spawn(async move { read_until(&database, &is_over, offset).await })
        })
        .collect();
    let mut largest = 0;
    for n in 1..=LETTERS {
        database.apply(&[large_letter(n)]).await;
        largest = largest.max(database.store.log_bytes());
    }
    is_over.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(largest < BOUND, "{largest}");
    const { assert!(LETTERS * LETTER_BYTES as u64 > 2 * BOUND) };
}

#[tokio::test]
async fn a_clean_stop_leaves_an_empty_log() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "r", 1)]).await;
    assert!(database.store.log_bytes() > 0);
    let _other = database.other_process().await;
    database.store.close().await.unwrap();
    assert_eq!(database.store.log_bytes(), 0);
}
