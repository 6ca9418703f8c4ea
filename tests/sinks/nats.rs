//! A stream of a real NATS server, which is full, deleted, put back to a copy, and cut off. Holds
//! invariants 10.4 and 10.5.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::sink::{Delivery, Follower, Pace, Parts, SinkError, SinkOptions};
use huddle_firehose::store::change_feed::{Cbor, ChangeFeed};
use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::json;
use test_support::nats::{Login, OwnServer, Queue, SECRET, Waiting};
use test_support::proxy::Proxy;
use test_support::tables::Database;
use tokio::time::sleep;

use crate::effects::*;
use crate::postgres::tables;

/// The latest change of each record, by its URI.
pub(crate) const NUMBERS: &str = "SELECT uri || ' ' || change FROM records ORDER BY uri";

pub(crate) fn follower(store: &Arc<SqliteStore>, url: &str) -> Follower {
    let options = SinkOptions::new(None, url).unwrap();
    let feed: Arc<dyn ChangeFeed> = store.clone();
    Follower::new(Parts {
        name: "nats".into(),
        sink: options.build(&tables(), &feed),
        feed,
        share: Budget::with_sinks(64 << 20, 1).sink_share(),
        retries: 3,
    })
}

/// Follows to the end; returns the errors on the way.
pub(crate) async fn follow(follower: &mut Follower) -> Vec<SinkError> {
    let mut errors = Vec::new();
    for _ in 0..1000 {
        match follower.step().await {
            Ok(Pace::CaughtUp) => return errors,
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    panic!("it never caught up: {errors:?}");
}

async fn with_records(count: u64) -> (Database, Arc<SqliteStore>) {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = (1..=count)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    apply(&store, effects, count).await;
    (database, store)
}

/// The latest change of each URI among `messages`, as [`NUMBERS`] has it.
pub(crate) fn numbers(messages: &[Waiting]) -> Vec<String> {
    let mut latest = BTreeMap::new();
    for message in messages {
        if let Some(uri) = message.body["uri"].as_str() {
            latest.insert(uri.to_owned(), message.body["change"].as_u64().unwrap());
        }
    }
    let latest = latest.iter().map(|(uri, change)| format!("{uri} {change}"));
    latest.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_message_of_its_accounts_partition() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let (database, store) = with_records(650).await;
    let effects = (1..=40).map(|n| put(&format!("did:plc:{n}"), "r", 700 + n));
    apply(&store, effects.collect(), 740).await;
    assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
    let waiting = queue.waiting().await;
    assert_eq!(numbers(&waiting), database.rows(NUMBERS).await);
    let changes = waiting.iter().map(|message| &message.body["change"]);
    let changes: Vec<u64> = changes.map(|change| change.as_u64().unwrap()).collect();
    assert!(changes.is_sorted());
    let mut partitions = BTreeMap::new();
    for message in &waiting {
        let body = &message.body;
        let text = |name: &str| body[name].as_str().unwrap();
        let id = format!("{}:{}:{}", text("feed"), text("epoch"), body["change"]);
        assert_eq!(message.headers["Nats-Msg-Id"], id);
        let partition = partitions.entry(text("did").to_owned());
        let partition = partition.or_insert(message.subject.clone());
        assert_eq!(*partition, message.subject);
    }
    assert_eq!(partitions.values().collect::<BTreeSet<_>>().len(), 4);
    // The next start of the worker goes on from there.
    drop(store);
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "r7", 800)], 800).await;
    assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
    assert_eq!(queue.count().await, waiting.len() as u64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_for_a_message_waits_in_a_bucket() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let large = json!({ "$type": PROFILE, "text": "x".repeat(1_100_000) });
    let effects = vec![
        put(ALICE, "a", 1),
        record(ALICE, PROFILE, "large", 2, &large),
    ];
    apply(&store, effects, 2).await;
    assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
    let waiting = queue.waiting().await;
    assert_eq!(numbers(&waiting), database.rows(NUMBERS).await);
    let large = waiting.last().unwrap();
    assert_eq!(large.body.get("record"), None);
    assert!(large.headers.contains_key("Huddle-Body"));
    assert_eq!(queue.bodies().await, 1);
}

/// Only a database that was changed by hand has one. The search for it keeps the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_json_is_set_aside_and_the_others_are_published() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let (database, store) = with_records(40).await;
    let broken = "UPDATE records SET record = '{' WHERE rkey = 'r20'";
    let mut stranger = database.stranger().await;
    sqlx::query(broken).execute(&mut stranger).await.unwrap();
    assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
    let expected = "SELECT uri || ' ' || change FROM records WHERE rkey <> 'r20' ORDER BY uri";
    assert_eq!(
        numbers(&queue.waiting().await),
        database.rows(expected).await
    );
    let letters = database
        .rows("SELECT stage || ' ' || uri FROM dead_letters")
        .await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].starts_with("sink ") && letters[0].ends_with("/r20"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_created_anew_gets_everything() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let (database, store) = with_records(30).await;
    let mut sink = follower(&store, &queue.url());
    assert_eq!(follow(&mut sink).await, []);
    queue.delete_stream().await;
    // The sink that is connected notices with its next delivery, another one when it connects.
    apply(&store, vec![put(ALICE, "r7", 50)], 50).await;
    assert!(!follow(&mut sink).await.is_empty());
    assert_eq!(
        numbers(&queue.waiting().await),
        database.rows(NUMBERS).await
    );
    queue.delete_stream().await;
    assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
    assert_eq!(
        numbers(&queue.waiting().await),
        database.rows(NUMBERS).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_went_back_gets_again_what_it_lacks() {
    let Some(mut server) = OwnServer::start().await else {
        return Queue::missing().unwrap_or_default();
    };
    let queue = Queue::at(&server.url());
    let (database, store) = with_records(30).await;
    follow(&mut follower(&store, &queue.url())).await;
    server.kill();
    let copy = server.copy();
    server.start_again().await;
    let more = (31..=60).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    apply(&store, more, 60).await;
    follow(&mut follower(&store, &queue.url())).await;
    assert_eq!(queue.count().await, 60);
    server.kill();
    server.put_back(&copy);
    server.start_again().await;
    assert_eq!(queue.count().await, 30);
    follow(&mut follower(&store, &queue.url())).await;
    assert_eq!(
        numbers(&queue.waiting().await),
        database.rows(NUMBERS).await
    );
    assert_eq!(
        queue.count().await,
        60,
        "what was there was not published again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_holds_the_sink_back_and_what_comes_keeps_its_order() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let url = queue.url().replace("bytes=64MiB", "bytes=64KiB");
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let text = |n: u64| "x".repeat(if n.is_multiple_of(2) { 9000 } else { 10 });
    let effects = (1..=20).map(|n| {
        let value = json!({ "$type": PROFILE, "text": text(n) });
        record(ALICE, PROFILE, &format!("r{n:02}"), n, &value)
    });
    apply(&store, effects.collect(), 20).await;
    let mut sink = follower(&store, &url);
    let mut taken = Vec::new();
    let mut was_full = false;
    while taken.len() < 20 {
        match sink.step().await {
            Ok(_) => {}
            Err(SinkError::Unavailable { reason, .. }) => {
                assert!(reason.contains("full"), "{reason}");
                was_full = true;
            }
            Err(error) => panic!("{error}"),
        }
        let waiting = queue.waiting().await;
        queue.purge().await;
        taken.extend(waiting);
    }
    assert!(was_full);
    assert_eq!(numbers(&taken), database.rows(NUMBERS).await);
    let changes = taken.iter().map(|message| message.body["change"].as_u64());
    assert!(changes.is_sorted());
}

/// A delivery has a deadline, within which the consumers make room for so many only.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_almost_full_is_given_less_at_once_and_more_when_it_has_room() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let url = queue.url().replace("bytes=64MiB", "bytes=64KiB");
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let large = json!({ "$type": PROFILE, "text": "x".repeat(9000) });
    let effects = (1..=20).map(|n| record(ALICE, PROFILE, &format!("r{n:02}"), n, &large));
    apply(&store, effects.collect(), 20).await;
    let feed: Arc<dyn ChangeFeed> = store.clone();
    let options = SinkOptions::new(None, &url).unwrap();
    let mut sink = options.build(&tables(), &feed);
    let known = feed.feed().await.unwrap();
    assert_eq!(sink.take_over(&known).await, Ok(0));
    let at_first = sink.limit();
    let page = store.changes(0, at_first, Cbor::Without).await.unwrap();
    let all = Delivery {
        feed: &known,
        changes: &page.changes,
        from: 0,
        to: page.through,
    };
    let consumer = async {
        loop {
            sleep(Duration::from_millis(50)).await;
            queue.purge().await;
        }
    };
    tokio::select! {
        delivered = sink.deliver(all) => delivered.unwrap(),
        () = consumer => unreachable!(),
    }
    let almost_full = sink.limit().rows;
    assert!(almost_full < 20, "{almost_full}");
    queue.purge().await;
    let one = Delivery {
        changes: &page.changes[..1],
        ..all
    };
    sink.deliver(one).await.unwrap();
    assert!(sink.limit().rows > almost_full);
    for _ in 0..12 {
        sink.deliver(one).await.unwrap();
    }
    assert_eq!(sink.limit(), at_first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_otherwise_is_left_as_it_is() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    queue.create_otherwise().await;
    let before = queue.info().await.unwrap().config;
    let (_database, store) = with_records(3).await;
    let error = follower(&store, &queue.url()).step().await.unwrap_err();
    assert!(error.to_string().contains("other subjects"), "{error}");
    assert_eq!(queue.info().await.unwrap().config, before);
    assert_eq!(queue.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_from_its_file_each_time_and_is_in_no_error() {
    let Some(server) = OwnServer::start_with(Login::Token).await else {
        return Queue::missing().unwrap_or_default();
    };
    let queue = Queue::at(&server.url_with_login());
    let (database, store) = with_records(3).await;
    let file = database.folder().join("token");
    let url = queue.url_at(&server.url());
    let mut sink = follower(&store, &format!("{url}&token_file={}", file.display()));
    for wrong in [None, Some("wr0ng")] {
        if let Some(wrong) = wrong {
            std::fs::write(&file, wrong).unwrap();
        }
        let error = sink.step().await.unwrap_err().to_string();
        assert!(!error.contains("wr0ng"), "{error}");
    }
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    assert_eq!(follow(&mut sink).await, []);
    assert_eq!(
        numbers(&queue.waiting().await),
        database.rows(NUMBERS).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_connections_are_cut_the_stream_has_each_change_once() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let proxy = Proxy::before(queue.server.trim_start_matches("nats://")).await;
    let (database, store) = with_records(10).await;
    let mut sink = follower(
        &store,
        &queue.url_at(&format!("nats://{}", proxy.address())),
    );
    let seed = 11;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..12_u64 {
        let first = 100 + round * 100;
        let effects = (first..first + 60).map(|n| put(ALICE, &format!("r{}", n % 37), n));
        apply(&store, effects.collect(), first + 60).await;
        let cut = async {
            for _ in 0..random.u32(1..4) {
                sleep(Duration::from_millis(random.u64(..30))).await;
                proxy.cut();
            }
        };
        tokio::join!(follow(&mut sink), cut);
    }
    let waiting = queue.waiting().await;
    assert_eq!(numbers(&waiting), database.rows(NUMBERS).await);
    let ids = waiting
        .iter()
        .map(|message| &message.headers["Nats-Msg-Id"]);
    let distinct: BTreeSet<&String> = ids.collect();
    assert_eq!(distinct.len(), waiting.len());
}

/// The consumers have taken all of it a moment ago, and the stream still knows the ids. Holds invariant
/// 10.8.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_again_after_a_rewind_comes_although_the_stream_knows_the_ids() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let (database, store) = with_records(30).await;
    let mut sink = follower(&store, &queue.url());
    assert_eq!(follow(&mut sink).await, []);
    queue.purge().await;
    for _ in 0..2 {
        assert!(sink.rewind(0).await.is_ok());
        // Another process goes on.
        sink = follower(&store, &queue.url());
        assert_eq!(follow(&mut sink).await, []);
        assert_eq!(
            numbers(&queue.waiting().await),
            database.rows(NUMBERS).await
        );
        queue.purge().await;
    }
}
