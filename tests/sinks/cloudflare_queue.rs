//! A queue of Cloudflare behind a network that fails. Holds invariants 10.1, 10.4 and 10.5.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::sink::{Follower, Pace, Parts, SinkError, SinkOptions};
use huddle_firehose::store::change_feed::ChangeFeed;
use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use test_support::cloudflare_queue::{Message, Options, Queue, TOKEN};
use test_support::http_proxy::{Fate, Proxy};

use crate::d1::wait_as_asked;
use crate::effects::*;
use crate::postgres::tables;
use crate::worker::Worker;

fn token(worker: &Worker) -> PathBuf {
    let path = worker.database.folder().join("token");
    std::fs::write(&path, TOKEN).unwrap();
    path
}

fn follower(url: &str, store: &Arc<SqliteStore>) -> Follower {
    let options = SinkOptions::new(Some("queue"), url).unwrap();
    let feed: Arc<dyn ChangeFeed> = store.clone();
    Follower::new(Parts {
        name: "queue".into(),
        sink: options.build(&tables(), &feed),
        feed,
        share: Budget::with_sinks(64 << 20, 1).sink_share(),
        retries: 3,
    })
}

/// Follows to the end; returns the errors on the way.
async fn follow(follower: &mut Follower) -> Vec<SinkError> {
    let mut errors = Vec::new();
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

/// The latest change of each URI.
fn latest(messages: &[Message]) -> Vec<String> {
    let mut rows = BTreeMap::<String, u64>::new();
    for message in messages {
        assert_eq!(message.content_type, "text");
        let task: Value = serde_json::from_str(&message.body).unwrap();
        if let Some(uri) = task["uri"].as_str() {
            let change = task["change"].as_u64().unwrap();
            let row = rows.entry(uri.to_owned()).or_default();
            *row = change.max(*row);
        }
    }
    rows.values().map(u64::to_string).collect()
}

const NUMBERS: &str = "SELECT change || '' FROM records ORDER BY uri";

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_message_and_the_position_moves_behind_the_answer() {
    let worker = Worker::new().await;
    let effects = (1..=250).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 250).await;
    let queue = Queue::start(Options::default()).await;
    let url = Queue::url(&queue.origin, &token(&worker));
    assert_eq!(follow(&mut follower(&url, &worker.store)).await, []);
    assert_eq!(queue.pushed().len(), 250);
    assert_eq!(latest(&queue.pushed()), worker.database.rows(NUMBERS).await);
    assert_eq!(queue.requests().len(), 3);
    // The next start of the worker goes on from there, and another queue has nothing of it.
    let again = vec![put(ALICE, "r7", 300), account(ALICE, Some("deleted"), 301)];
    worker.apply(again, 301).await;
    follow(&mut follower(&url, &worker.store)).await;
    assert_eq!(queue.pushed().len(), 251);
    let last: Value = serde_json::from_str(&queue.pushed()[250].body).unwrap();
    assert_eq!(
        (&last["type"], &last["did"]),
        (&json!("account"), &json!(ALICE))
    );
    let elsewhere = url.replace("/que-ue", "/another");
    let missing = follower(&elsewhere, &worker.store);
    let mut missing = missing;
    let error = loop {
        match missing.step().await {
            Ok(pace) => assert_ne!(pace, Pace::CaughtUp),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("11000"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_answers_are_lost_every_change_is_in_the_queue() {
    for seed in 0..3 {
        let worker = Worker::new().await;
        let queue = Queue::start(Options::default()).await;
        let proxy = Proxy::start(&queue.origin).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut of_network = random.fork();
        proxy.script(move |_| match of_network.u32(..10) {
            0 | 1 => Fate::Lost,
            2 | 3 => Fate::AnswerLost,
            4 => Fate::Refused(429, 971, "throttled", "1"),
            5 => Fate::Refused(503, 10250, "queue is overloaded", "1"),
            _ => Fate::Answered,
        });
        let url = Queue::url(&format!("http://{}", proxy.address), &token(&worker));
        let mut sink = follower(&url, &worker.store);
        let mut seq = 0;
        for _ in 0..10 {
            for _ in 0..random.u32(..30) {
                seq += 1;
                let rkey = format!("r{}", random.u32(..50));
                worker.apply(vec![put(ALICE, &rkey, seq)], seq).await;
            }
            for _ in 0..random.u32(..4) {
                // An error is what the network did.
                let _stepped = sink.step().await;
            }
            if random.bool() {
                sink = follower(&url, &worker.store);
            }
        }
        follow(&mut sink).await;
        assert_eq!(latest(&queue.pushed()), worker.database.rows(NUMBERS).await);
    }
}

/// A message has 128 KB.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_too_large_goes_without_its_record_and_says_so() {
    let worker = Worker::new().await;
    let text = |bytes: usize| json!({ "$type": PROFILE, "text": "é\"".repeat(bytes / 3) });
    let mut effects = vec![record(ALICE, PROFILE, "large", 1, &text(900_000))];
    // A page of them is more than a request may have.
    effects.extend((2..=20).map(|n| record(ALICE, PROFILE, &format!("m{n}"), n, &text(60_000))));
    worker.apply(effects, 20).await;
    let queue = Queue::start(Options::default()).await;
    let url = Queue::url(&queue.origin, &token(&worker));
    assert_eq!(follow(&mut follower(&url, &worker.store)).await, []);
    assert_eq!(latest(&queue.pushed()), worker.database.rows(NUMBERS).await);
    let none: [String; 0] = [];
    assert_eq!(
        worker.database.rows("SELECT error FROM dead_letters").await,
        none
    );
    for message in queue.pushed() {
        let task: Value = serde_json::from_str(&message.body).unwrap();
        let is_large = task["rkey"] == "large";
        assert_eq!(task["type"], "upsert");
        assert_eq!(task.get("record").is_none(), is_large);
        assert_eq!(task.get("omitted") == Some(&json!(true)), is_large);
        assert!(task["cid"].is_string() && task["rev"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_waited_for_and_a_message_that_it_refuses_is_a_dead_letter() {
    let worker = Worker::new().await;
    let effects = (1..=20).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 20).await;
    let queue = Queue::start(Options {
        backlog: 0,
        ..Options::default()
    })
    .await;
    let proxy = Proxy::start(&queue.origin).await;
    proxy.script(|body| match body.contains("/r13\\\"") {
        true => Fate::Refused(400, 10204, "message is too large", "0"),
        false => Fate::Answered,
    });
    let url = Queue::url(&format!("http://{}", proxy.address), &token(&worker));
    let mut sink = follower(&url, &worker.store);
    let full = loop {
        match sink.step().await {
            Ok(pace) => assert_ne!(pace, Pace::CaughtUp),
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("10251"), "{full}");
    queue.limit_backlog(usize::MAX);
    assert_eq!(follow(&mut sink).await, []);
    assert_eq!(latest(&queue.pushed()).len(), 19);
    let letters = "SELECT source || ' ' || uri FROM dead_letters WHERE stage = 'sink'";
    let expected = format!("sink:queue at://{ALICE}/{PROFILE}/r13");
    assert_eq!(worker.database.rows(letters).await, [expected]);
}

/// Posts to the stand-in, as a consumer does.
pub(crate) async fn ask(queue: &Queue, what: &str, body: Value) -> Value {
    let url = format!(
        "{}/client/v4/accounts/acc/queues/que-ue/messages/{what}",
        queue.origin
    );
    let request = reqwest::Client::new().post(url);
    let request = request.bearer_auth(TOKEN).json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

/// Pulls up to `size` messages: their bodies, attempts and leases.
pub(crate) async fn pull(queue: &Queue, size: u32) -> Vec<(String, u64, String)> {
    let pull = json!({ "batch_size": size, "visibility_timeout_ms": 30_000 });
    let answer = ask(queue, "pull", pull).await;
    let messages = answer["result"]["messages"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let message = |message: &Value| {
        let attempts = message["attempts"].as_u64().unwrap();
        (text(&message["body"]), attempts, text(&message["lease_id"]))
    };
    messages.iter().map(message).collect()
}

/// What consumers rely on is as the service describes it.
#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_of_the_queue_has_leases_retries_and_dead_letters() {
    let queue = Queue::start(Options {
        max_retries: 1,
        ..Options::default()
    })
    .await;
    let messages = ["a", "b", "c"].map(|body| json!({ "body": body, "content_type": "text" }));
    let pushed = ask(&queue, "batch", json!({ "messages": messages })).await;
    assert_eq!(pushed["success"], true);
    let first = pull(&queue, 2).await;
    assert_eq!(first.len(), 2);
    // What is leased is not handed out again, until the lease ends.
    assert_eq!(pull(&queue, 100).await.len(), 1);
    assert_eq!(pull(&queue, 100).await, []);
    // A late ack counts.
    queue.pass(Duration::from_secs(31));
    let (body, attempts, lease) = first[0].clone();
    assert_eq!(attempts, 1);
    let acks = json!({ "acks": [{ "lease_id": lease }], "retries": [] });
    assert_eq!(ask(&queue, "ack", acks).await["result"]["ackCount"], 1);
    let again = pull(&queue, 100).await;
    assert_eq!(again.len(), 2);
    assert!(
        again
            .iter()
            .all(|(other, attempts, _)| *other != body && *attempts == 2)
    );
    // An ack under a lease after which another one was given does not, and a delay is kept.
    let old = json!({ "acks": [{ "lease_id": first[1].2 }] });
    assert_eq!(ask(&queue, "ack", old).await["result"]["ackCount"], 0);
    let retry = json!({ "retries": [{ "lease_id": again[0].2, "delay_seconds": 60 }] });
    assert_eq!(ask(&queue, "ack", retry).await["result"]["retryCount"], 1);
    queue.pass(Duration::from_secs(59));
    assert_eq!(pull(&queue, 100).await, []);
    assert_eq!(queue.dead_letters()[0].body, again[1].0);
    queue.pass(Duration::from_secs(1));
    assert_eq!(pull(&queue, 100).await, []);
    assert_eq!(queue.dead_letters().len(), 2);
    assert!(queue.backlog().is_empty());
    // Its limits.
    let many = vec![json!({ "body": "x", "content_type": "text" }); 101];
    let many = ask(&queue, "batch", json!({ "messages": many })).await;
    assert_eq!(many["errors"][0]["code"], 10206);
    let large = json!({ "body": "x".repeat(128_000), "content_type": "text" });
    let large = ask(&queue, "batch", json!({ "messages": [large] })).await;
    assert_eq!(large["errors"][0]["code"], 10204);
    let three = vec![json!({ "body": "x".repeat(100_000), "content_type": "text" }); 3];
    let three = ask(&queue, "batch", json!({ "messages": three })).await;
    assert_eq!(three["errors"][0]["code"], 10205);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_of_the_queue_keeps_no_order_and_hands_out_some_messages_twice() {
    let queue = Queue::start(Options {
        seed: 7,
        duplicates: 30,
        ..Options::default()
    })
    .await;
    let sent: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let messages: Vec<Value> = sent
        .iter()
        .map(|body| json!({ "body": body, "content_type": "text" }))
        .collect();
    ask(&queue, "batch", json!({ "messages": messages })).await;
    let mut taken = Vec::new();
    while !queue.backlog().is_empty() {
        for (body, _, lease) in pull(&queue, 10).await {
            taken.push(body);
            ask(&queue, "ack", json!({ "acks": [{ "lease_id": lease }] })).await;
        }
    }
    assert!(!taken.is_sorted_by_key(|body| body.parse::<u32>().unwrap()));
    assert!(taken.len() > 110, "{}", taken.len());
    let all = BTreeSet::from_iter(taken);
    assert_eq!(all, BTreeSet::from_iter(sent));
}
