//! A follower and a sink that fails in every way. Holds invariants 10.1 and 10.4.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::model::{ChangedRow, Feed, FeedPosition};
use huddle_firehose::sink::{Delivery, Follower, Pace, Parts, Rewound, Sink, SinkError};
use huddle_firehose::store::PieceLimit;
use huddle_firehose::store::change_feed::ChangeFeed;
use huddle_firehose::store::sqlite::SqliteStore;
use test_support::tables::Database;
use tokio::time::{pause, resume, sleep};

use crate::effects::*;

/// What a sink has, durably.
#[derive(Default)]
struct Kept {
    position: Option<FeedPosition>,
    rows: BTreeMap<String, String>,
    deliveries: Vec<usize>,
    /// The time that it takes for each change.
    pace: Duration,
}

/// Takes what it is given, unless a fault is due.
struct Faulty {
    kept: Arc<Mutex<Kept>>,
    random: fastrand::Rng,
    /// Of ten deliveries, how many fail.
    faults: u32,
}

/// The clock stands still but for those who wait for it.
struct Paused;

impl Paused {
    fn begin() -> Self {
        pause();
        Self
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        resume();
    }
}

impl Sink for Faulty {
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>> {
        let begin = feed.begin(self.kept.lock().unwrap().position.as_ref());
        Box::pin(std::future::ready(Ok(begin)))
    }

    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>> {
        let takes = self.kept.lock().unwrap().pace * delivery.changes.len() as u32;
        Box::pin(async move {
            if !takes.is_zero() {
                let _paused = Paused::begin();
                sleep(takes).await;
            }
            self.take(delivery)
        })
    }

    fn limit(&self) -> PieceLimit {
        PieceLimit {
            rows: 16,
            bytes: 1 << 20,
        }
    }
}

impl Faulty {
    fn take(&mut self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let fault = self.random.u32(..10) < self.faults;
        // The answer is lost, behind the commit or before it.
        let is_lost_before = fault && self.random.bool();
        let mut kept = self.kept.lock().unwrap();
        let refused = |row: &ChangedRow| matches!(row, ChangedRow::Record(record) if record.rkey == "refused");
        if is_lost_before {
            Err(SinkError::unavailable("lost"))
        } else if delivery.changes.iter().any(|change| refused(&change.row)) {
            Err(SinkError::Refused("by its key".to_owned()))
        } else {
            let begin = delivery.feed.begin(kept.position.as_ref());
            assert_eq!(begin, delivery.from, "a change was left out or came twice");
            for change in delivery.changes {
                let key = match &change.row {
                    ChangedRow::Account(account) => account.did.to_string(),
                    ChangedRow::Record(record) => record.uri.to_string(),
                };
                kept.rows.insert(key, format!("{}", change.number));
            }
            kept.position = delivery.feed.position(delivery.to);
            kept.deliveries.push(delivery.changes.len());
            match fault {
                true => Err(SinkError::unavailable("lost")),
                false => Ok(()),
            }
        }
    }
}

fn follower(store: &Arc<SqliteStore>, kept: &Arc<Mutex<Kept>>, faults: u32, seed: u64) -> Follower {
    let feed: Arc<dyn ChangeFeed> = store.clone();
    Follower::new(Parts {
        name: "faulty".into(),
        feed,
        sink: Box::new(Faulty {
            kept: kept.clone(),
            random: fastrand::Rng::with_seed(seed),
            faults,
        }),
        share: Budget::with_sinks(8 << 20, 1).sink_share(),
        retries: 3,
    })
}

/// A sink before a database with forty records.
async fn with_forty_records() -> (Database, Arc<Mutex<Kept>>, Follower) {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = (1..=40).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    apply(&store, effects, 40).await;
    let kept = Arc::default();
    let sink = follower(&store, &kept, 0, 0);
    (database, kept, sink)
}

/// How many changes a sink took.
fn delivered(kept: &Mutex<Kept>) -> usize {
    kept.lock().unwrap().deliveries.iter().sum()
}

async fn follow(follower: &mut Follower) {
    for _ in 0..10_000 {
        if follower.step().await == Ok(Pace::CaughtUp) {
            return;
        }
    }
    panic!("it never caught up");
}

#[tokio::test]
async fn whatever_answers_are_lost_the_sink_has_every_change_in_the_end() {
    for seed in 0..5 {
        let database = Database::new();
        let store = Arc::new(database.store().await);
        let kept = Arc::default();
        let mut sink = follower(&store, &kept, 4, seed);
        for round in 0..10 {
            let effects = (1..=20)
                .map(|n| put(ALICE, &format!("r{}", n % 13), round * 20 + n))
                .collect();
            apply(&store, effects, round * 20 + 20).await;
            if round % 3 == 1 {
                sink = follower(&store, &kept, 4, seed + round);
            }
            if round % 2 == 0 {
                follow(&mut sink).await;
            }
        }
        follow(&mut sink).await;
        let numbers = "SELECT change || '' FROM records ORDER BY uri";
        let expected = database.rows(numbers).await;
        let found: Vec<String> = kept.lock().unwrap().rows.values().cloned().collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn a_refused_change_is_found_by_halves_and_set_aside_after_its_retries() {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let mut effects: Vec<_> = (1..=16).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    effects[9] = put(ALICE, "refused", 10);
    apply(&store, effects, 16).await;
    let kept = Arc::default();
    let mut sink = follower(&store, &kept, 0, 0);
    let mut refusals = 0;
    for step in 0.. {
        assert!(step < 1000, "it never caught up");
        match sink.step().await.unwrap() {
            Pace::CaughtUp => break,
            Pace::Refused(reason) => {
                assert_eq!(reason, "by its key");
                refusals += 1;
            }
            Pace::Next(_) => {}
        }
    }
    assert_eq!(refusals, 3);
    let letters = "SELECT stage || ' ' || error || ' ' || attempts FROM dead_letters";
    assert_eq!(database.rows(letters).await, ["sink by its key 4"]);
    let raw = "SELECT records.uri FROM dead_letters JOIN records ON raw = record_cbor";
    assert_eq!(database.rows(raw).await.len(), 1);
    let kept = kept.lock().unwrap();
    assert_eq!(kept.rows.len(), 15);
    let refused = kept.rows.keys().filter(|uri| uri.ends_with("refused"));
    assert_eq!(refused.count(), 0);
}

/// A sink that is behind a slow line would get the same changes for ever.
#[tokio::test]
async fn a_sink_that_is_too_slow_for_a_delivery_gets_smaller_ones_until_it_is_quick() {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = (1..=16).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    apply(&store, effects, 16).await;
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let mut sink = follower(&store, &kept, 0, 0);
    // A delivery has 25 s.
    kept.lock().unwrap().pace = Duration::from_secs(5);
    let mut late = 0;
    while delivered(&kept) < 8 {
        late += usize::from(sink.step().await.is_err());
        assert!(late < 10, "it never takes anything");
    }
    assert_eq!(late, 2);
    kept.lock().unwrap().pace = Duration::ZERO;
    follow(&mut sink).await;
    let kept = kept.lock().unwrap();
    assert_eq!(kept.deliveries, [4, 4, 4, 4]);
    assert_eq!(kept.rows.len(), 16);
}

/// Both take their time, and an actor that is at one step for too long counts as stuck.
#[tokio::test]
async fn the_position_moves_over_a_dead_letter_in_a_step_of_its_own() {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = vec![put(ALICE, "refused", 1), put(ALICE, "a", 2)];
    apply(&store, effects, 2).await;
    let kept = Arc::default();
    let mut sink = follower(&store, &kept, 0, 0);
    let letters = "SELECT error FROM dead_letters";
    for step in 0.. {
        assert!(step < 1000, "there never was a dead letter");
        let before = sink.position();
        sink.step().await.unwrap();
        if !database.rows(letters).await.is_empty() {
            assert_eq!(sink.position(), before);
            break;
        }
    }
    let before = sink.position();
    assert_eq!(sink.step().await, Ok(Pace::Next(0)));
    assert!(sink.position() > before);
    follow(&mut sink).await;
    assert_eq!(database.rows(letters).await.len(), 1);
    let uris: Vec<String> = kept.lock().unwrap().rows.keys().cloned().collect();
    assert!(uris.iter().any(|uri| uri.ends_with("/a")), "{uris:?}");
}

/// Holds invariant 10.8.
#[tokio::test]
async fn a_sink_that_is_rewound_gets_again_what_comes_behind_the_place_and_one_that_is_not_so_far_refuses()
 {
    let (_database, kept, mut sink) = with_forty_records().await;
    // It asks the sink where it is, although no step was done yet.
    assert_eq!(sink.rewind(5).await, Ok(Rewound::Ahead { at: 0 }));
    follow(&mut sink).await;
    let end = sink.position().unwrap();
    assert_eq!(sink.rewind(end + 1).await, Ok(Rewound::Ahead { at: end }));
    let before = delivered(&kept);
    assert_eq!(sink.rewind(end - 7).await, Ok(Rewound::From(end)));
    follow(&mut sink).await;
    assert_eq!(delivered(&kept) - before, 7);
    assert_eq!(sink.position(), Some(end));
}

/// Holds invariant 10.8.
#[tokio::test]
async fn a_page_that_was_read_ahead_is_not_delivered_behind_another_position() {
    let (_database, kept, mut sink) = with_forty_records().await;
    while delivered(&kept) == 0 {
        sink.step().await.unwrap();
    }
    let of_first_page = delivered(&kept);
    let at = sink.position().unwrap();
    assert_eq!(sink.rewind(0).await, Ok(Rewound::From(at)));
    follow(&mut sink).await;
    let rows = kept.lock().unwrap().rows.len();
    assert_eq!(delivered(&kept), of_first_page + rows);
    assert_eq!(rows, 40);
}

/// The rows of a removed account are gone from the feed at once, and from the tables in pieces of a thousand.
#[tokio::test]
async fn a_page_without_changes_is_not_the_end_of_the_feed() {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let of = |did, numbers: RangeInclusive<u64>| {
        let effects = numbers.map(|n| put(did, &format!("r{n}"), n));
        effects.collect::<Vec<_>>()
    };
    apply(&store, of(BOB, 1..=16), 16).await;
    apply(&store, of(ALICE, 17..=1500), 1500).await;
    apply(&store, of(BOB, 1501..=1501), 1501).await;
    let removal = account(ALICE, Some("deleted"), 1502);
    apply(&store, vec![removal], 1502).await;
    let left = "SELECT uri FROM records WHERE did = 'did:plc:alice'";
    assert!(database.rows(left).await.len() > 32);
    let kept: Arc<Mutex<Kept>> = Arc::default();
    follow(&mut follower(&store, &kept, 0, 0)).await;
    let kept = kept.lock().unwrap();
    let of_bob = kept.rows.keys().filter(|key| key.contains(BOB));
    assert_eq!((of_bob.count(), kept.rows.len()), (17, 18));
    assert!(kept.rows.contains_key(ALICE));
}
