//! While database writes fail, the socket is not read, and nothing is lost. Holds invariant 4.2.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use huddle_firehose::atproto::skim::{Skim, skim};
use huddle_firehose::config::Config;
use huddle_firehose::source::process::{DECODING_GROWTH, EFFECT_BYTES};
use huddle_firehose::store::plan::effect::writing_bytes;
use huddle_firehose::store::{StoreError, WriteBatch};
use sqlx::Executor;
use test_support::guarded_store::Guarded;
use test_support::mock_relay::relay;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, assert_same_tables};
use test_support::waiting::eventually;

const BUDGET: usize = 64 * 1024;
const BATCH: usize = 8 * 1024;

/// What a store does with a transaction.
#[derive(Default)]
struct Valve {
    is_open: AtomicBool,
    refused: AtomicU64,
}

impl Valve {
    fn pass(&self) -> Result<(), StoreError> {
        if self.is_open.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))
    }
}

fn tight() -> Config {
    Config {
        memory_budget: BUDGET as u64,
        batch_bytes: BATCH as u64,
        ..config()
    }
}

/// Waits until the budget is spent and the worker reports the database, then until
/// `is_long_enough`. Asserts all the time that no more is read and held than the budget allows.
async fn assert_pushed_back(
    worker: &Worker,
    frames: &[Bytes],
    reason: &str,
    mut is_long_enough: impl FnMut() -> bool,
) {
    let largest = frames.iter().map(Bytes::len).max().unwrap();
    let total: usize = frames.iter().map(Bytes::len).sum();
    // The last batch began while there was room, and may exceed its limit by one frame.
    let readable = BUDGET + BATCH + largest;
    assert!(readable < total / 2, "the recording is too short for this");
    // A frame weighs its bytes, what is copied out of it, and a constant for each effect. Each
    // decoder takes more for a moment, and so does the writer.
    let decoding = DECODING_GROWTH * largest * worker.tree.context().decoders.len();
    let holdable = 3 * readable
        + EFFECT_BYTES * most_effects(frames, readable)
        + decoding
        + writing_bytes(&[]);

    let budget = &worker.tree.context().budget;
    let mut was_pushed_back = false;
    eventually("the socket is left unread", || {
        assert!(worker.source.taken_bytes() <= readable);
        assert!(budget.in_flight_bytes() <= holdable);
        was_pushed_back |= !budget.has_room() && worker.status().queue.blocked.is_some();
        was_pushed_back && is_long_enough()
    })
    .await;
    let blocked = worker.status().queue.blocked.unwrap();
    assert!(blocked.reason.contains(reason), "{}", blocked.reason);
}

/// The largest number of effects that the first `bytes` of the frames can have.
fn most_effects(frames: &[Bytes], mut bytes: usize) -> usize {
    let mut effects = 0;
    for frame in frames {
        let Some(rest) = bytes.checked_sub(frame.len()) else {
            break;
        };
        bytes = rest;
        effects += match skim(frame) {
            Ok(Skim::Message(envelope)) => 2 * envelope.paths().len() + 1,
            _ => 1,
        };
    }
    effects
}

async fn assert_everything_arrives(worker: Worker, frames: &[Bytes], database: &Database) {
    worker.reaches(last_seq(frames)).await;
    assert!(worker.status().queue.blocked.is_none());
    assert_eq!(worker.tree.context().budget.in_flight_bytes(), 0);
    worker.assert_restarted(&[]);
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

#[tokio::test]
async fn a_store_that_refuses_everything_pushes_back_to_the_socket() {
    let (frames, database) = (frames(), Database::new());
    let relay = relay(frames.clone()).await;
    let valve = Arc::new(Valve::default());
    let guard_valve = valve.clone();
    let store = Guarded {
        store: database.store().await,
        guard: move |_: &WriteBatch<'_>| guard_valve.pass(),
    };
    let worker = Worker::start_with(tight(), &relay, store).await;

    let refused = || valve.refused.load(Ordering::SeqCst);
    assert_pushed_back(&worker, &frames, "the database is unavailable", || {
        refused() >= 3
    })
    .await;
    assert_eq!(database.cursor().await.seq, 0);

    valve.is_open.store(true, Ordering::SeqCst);
    assert_everything_arrives(worker, &frames, &database).await;
}

#[tokio::test]
async fn a_database_that_another_process_has_locked_pushes_back_to_the_socket() {
    let (frames, database) = (frames(), Database::new());
    let relay = relay(Vec::new()).await;
    let worker = Worker::start_with(tight(), &relay, database.impatient_store().await).await;
    eventually("the cursor has been read", || {
        worker.tree.context().ledger.is_positioned()
    })
    .await;

    let mut lock = database.lock().await;
    for frame in &frames {
        relay.push(frame.clone());
    }
    assert_pushed_back(&worker, &frames, "database is locked", || true).await;

    lock.execute("ROLLBACK").await.unwrap();
    assert_everything_arrives(worker, &frames, &database).await;
}
