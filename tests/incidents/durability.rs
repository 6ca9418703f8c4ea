//! Incidents 2, 3, 4 and 10: actors that end, collections that are missing, tables that are slower
//! than the source, and memory. Holds invariants 1.6, 3.2 and 4.3.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use huddle_firehose::config::Config;
use huddle_firehose::store::plan::effect::{Effect, RecordChange};
use huddle_firehose::store::{StoreError, WriteBatch};
use huddle_firehose::worker::Role;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use simulated_network::network::Network;
use simulated_network::oracle::{Visibility, select};
use simulated_network::shape::Shape;
use test_support::guarded_store::Guarded;
use test_support::mock_relay::{relay, relay_with, unhurried};
use test_support::recorded_frames::frames;
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, assert_same, assert_same_tables};
use test_support::waiting::eventually;

use crate::log_builder::{ANN, LogBuilder, last_seq};
use crate::{index_with, numbers};

// === Incident 2 ===

#[tokio::test]
async fn incident_02_the_worker_continues_after_the_end_of_any_actor() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let config = Config {
        restart_limit: 100,
        ..config()
    };
    let worker = Worker::start_with(config, &relay, database.store().await).await;
    let parts = [
        Role::Cursor,
        Role::Indexer,
        Role::Filter,
        Role::Decoder(0),
        Role::Decoder(1),
        Role::Housekeeping,
        Role::Connection,
    ];
    for part in parts {
        worker.kill(part).await;
    }
    worker.reaches(end).await;
    worker.assert_restarted(&parts);
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

// === Incident 3 ===

#[tokio::test]
async fn incident_03_every_wanted_collection_arrives() {
    let without_migrations = Shape {
        migrations: 0,
        ..Shape::default()
    };
    let mut network = Network::new(3, without_migrations);
    network.steps(400);
    let log = network.log().iter().map(|entry| entry.frame.clone());
    // The log may end with a message that has no seq.
    let end = network.log().iter().rposition(|entry| entry.seq.is_some());
    let log: Vec<Bytes> = log.take(end.unwrap() + 1).collect();
    let config = Config {
        collections: ["com.huddle.*", "app.bsky.feed.like"]
            .map(|pattern| pattern.parse().unwrap())
            .into(),
        validation: "off".parse().unwrap(),
        ..config()
    };
    let database = index_with(config, log).await;

    let truth = network.oracle().now();
    let is_wanted =
        |path: &str| path.starts_with("com.huddle.") || path.starts_with("app.bsky.feed.like/");
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for uri in select(&truth, Visibility::Live, is_wanted).into_keys() {
        let collection = uri.split('/').nth(3).unwrap().to_owned();
        expected.entry(collection).or_default().insert(uri);
    }
    assert_eq!(expected.len(), 5, "{:?}", expected.keys());
    let found = database.rows("SELECT uri FROM visible_records").await;
    for (collection, expected) in expected {
        let part = format!("/{collection}/");
        let found = found.iter().filter(|uri| uri.contains(&part));
        assert_same(&collection, &found.cloned().collect(), &expected);
    }
}

// === Incident 4 ===

/// Refuses every second transaction, and checks in the others whether the cursor leads.
#[derive(Default)]
struct Reluctant {
    attempts: AtomicUsize,
    /// The seqs of durable events.
    durable: Mutex<BTreeSet<u64>>,
    leads: AtomicBool,
}

impl Reluctant {
    fn check(&self, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
        if self
            .attempts
            .fetch_add(1, Ordering::SeqCst)
            .is_multiple_of(2)
        {
            return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        let mut durable = self.durable.lock().unwrap();
        let records = batch.effects.iter().flat_map(|effect| match effect {
            Effect::Commit(commit) => &commit.records,
            other => panic!("unexpected effect {other:?}"),
        });
        durable.extend(records.map(|record| match record {
            RecordChange::Upsert(upsert) => upsert.version.seq,
            other => panic!("unexpected effect {other:?}"),
        }));
        let is_behind = |seq| durable.contains(&seq);
        if !(1..=batch.position.seq).all(is_behind) {
            self.leads.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[tokio::test]
async fn incident_04_tables_slower_than_the_stream_drop_nothing_and_the_cursor_waits_for_them() {
    const NOTES: u64 = 200;
    let mut log_builder = LogBuilder::new();
    for n in 1..=NOTES {
        log_builder.put(ANN, &format!("com.huddle.note/{n}"), n);
    }
    let (reluctant, database) = (Arc::new(Reluctant::default()), Database::new());
    let judge = reluctant.clone();
    let store = Guarded {
        store: database.store().await,
        guard: move |batch: &WriteBatch<'_>| judge.check(batch),
    };
    let config = Config {
        memory_budget: 32 * 1024,
        batch_bytes: 4 * 1024,
        index_batch: 100,
        ..config()
    };
    let relay = relay(log_builder.log).await;
    let worker = Worker::start_with(config, &relay, store).await;
    worker.reaches(NOTES).await;
    worker.assert_restarted(&[]);
    worker.drain().await;
    assert!(!reluctant.leads.load(Ordering::SeqCst), "the cursor led");
    assert_eq!(numbers(&database).await.len() as u64, NOTES);
}

#[tokio::test]
async fn incident_04_a_refused_transaction_is_not_reported_as_done() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, "com.huddle.note/1", 1);
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let database = Database::new();
    let store = Guarded {
        store: database.store().await,
        guard: move |_: &WriteBatch<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))
        },
    };
    let relay = relay(log_builder.log).await;
    let worker = Worker::start_with(config(), &relay, store).await;
    eventually("two refusals", || refused.load(Ordering::SeqCst) >= 2).await;
    let status = worker.status();
    assert_eq!(worker.source_status().applied.seq, 0);
    assert_eq!(status.queue.applied, 0);
    assert!(status.queue.blocked.is_some());
    assert_eq!(database.cursor().await.seq, 0);
}

// === Incident 10 ===

const FRAME: usize = 2_000_000;

/// An `#account` with an unknown field.
fn large(seq: u64) -> Bytes {
    let payload = ipld!({
        "active": true,
        "did": ANN,
        "padding": Ipld::Bytes(vec![0; FRAME]),
        "seq": seq,
        "time": "2026-11-23T08:00:00Z",
    });
    let header = ipld!({ "op": 1, "t": "#account" });
    let mut frame = serde_ipld_dagcbor::to_vec(&header).unwrap();
    frame.extend(serde_ipld_dagcbor::to_vec(&payload).unwrap());
    frame.into()
}

#[tokio::test]
async fn incident_10_frames_of_two_megabytes_are_held_by_their_bytes_and_not_by_their_number() {
    const FRAMES: u64 = 16;
    const BUDGET: usize = 8 << 20;
    let frames: Vec<Bytes> = (1..=FRAMES).map(large).collect();
    let (is_open, refused) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (opened, refusals, database) = (is_open.clone(), refused.clone(), Database::new());
    let store = Guarded {
        store: database.store().await,
        guard: move |_: &WriteBatch<'_>| {
            if opened.load(Ordering::SeqCst) {
                return Ok(());
            }
            refusals.fetch_add(1, Ordering::SeqCst);
            Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))
        },
    };
    let config = Config {
        memory_budget: BUDGET as u64,
        ..config()
    };
    // The last batch began while there was room, and a frame beyond its limit ends it.
    let readable = BUDGET + config.batch_bytes as usize + FRAME;
    assert!(2 * readable < FRAMES as usize * FRAME);
    let relay = relay(frames).await;
    let worker = Worker::start_with(config, &relay, store).await;
    let budget = worker.tree.context().budget.clone();
    // Long enough for a worker that does not count bytes to read the rest too.
    let until = || refused.load(Ordering::SeqCst) >= 3;
    eventually("the socket is left unread", || {
        assert!(worker.source.taken_bytes() <= readable);
        // A decoded event weighs twice its frame, in addition.
        assert!(budget.in_flight_bytes() <= 3 * readable);
        !budget.has_room() && until()
    })
    .await;

    is_open.store(true, Ordering::SeqCst);
    worker.reaches(FRAMES).await;
    assert_eq!(budget.in_flight_bytes(), 0);
    worker.drain().await;
}
