//! A queue that is consumed into D1, behind a network that loses, delays and repeats requests. Holds
//! invariants 10.9 and 10.11.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use huddle_firehose::sink::d1::D1Target;
use huddle_firehose::sink::target::{Feeds, TableTarget};
use huddle_firehose::sink::task::Task;
use huddle_firehose::sink::{SinkError, SinkOptions, Target};
use serde_json::json;
use test_support::d1::{D1, assert_follows};
use test_support::http_proxy::Fate;
use test_support::nats::Queue;
use test_support::tables::Database;
use test_support::worker_process::Program;

use crate::consuming::*;
use crate::d1::database;
use crate::effects::*;
use crate::postgres::tables;
use crate::truth::assert_is_true;

async fn ends() -> Option<(Queue, D1)> {
    Some((Queue::new().await?, database().await?))
}

/// The rows of records; 0 while there are no tables.
pub(crate) async fn records(d1: &D1) -> u64 {
    let tables = "SELECT name FROM sqlite_master WHERE name = 'records'";
    if d1.column(tables).await.is_empty() {
        return 0;
    }
    let found = d1.column("SELECT count(*) AS n FROM records").await;
    found[0].parse().unwrap()
}

pub(crate) async fn until_removed(d1: &D1) {
    until("the rows of removed accounts are deleted", async || {
        let removals = d1.column("SELECT did FROM account_removals").await;
        removals.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_in_d1_that_are_consumed_are_those_of_the_worker() {
    let Some((queue, d1)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = vec![
        put(ALICE, "a", 1),
        offer(ALICE, "o", 2),
        request(BOB, "q", 3, "requested"),
        put(ALICE, "gone", 4),
        delete(ALICE, "gone", 5),
        identity(BOB, "bob.example", 6),
        put("did:plc:carol", "c", 7),
    ];
    apply(&store, effects, 7).await;
    deliver(&store, &queue).await;
    let program = Program::start(consume(&queue.url(), &d1.url())).await;
    until_empty(&queue).await;
    assert_follows(&d1, &database.path()).await;
    // What follows: a new version, a change of status, a removal.
    let effects = vec![
        offer(ALICE, "o", 11),
        account("did:plc:carol", Some("deactivated"), 12),
        account(BOB, Some("deleted"), 13),
        put(ALICE, "a", 14),
    ];
    apply(&store, effects, 14).await;
    deliver(&store, &queue).await;
    until_empty(&queue).await;
    until_removed(&d1).await;
    assert_follows(&d1, &database.path()).await;
    assert!(number(&program, "applied").await >= 9);
    // There is no position: the queue has it.
    let positions = d1.column("SELECT sink FROM sink_positions").await;
    assert!(positions.is_empty());
    // Where the tables are gone, they are made anew for what comes.
    d1.empty().await;
    apply(&store, vec![put(ALICE, "later", 15)], 15).await;
    deliver(&store, &queue).await;
    until_empty(&queue).await;
    let uris = d1.column("SELECT uri FROM records").await;
    assert_eq!(uris, [format!("at://{ALICE}/{PROFILE}/later")]);
}

/// One of two consumers is killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_late_or_repeated_each_change_of_the_queue_is_in_d1() {
    let Some((queue, d1)) = ends().await else {
        return;
    };
    let requests = Arc::new(AtomicU32::new(0));
    d1.proxy.script(
        move |_| match requests.fetch_add(1, Ordering::Relaxed) % 11 {
            3 => Fate::Lost,
            5 | 8 => Fate::AnswerLost,
            _ => Fate::Answered,
        },
    );
    let (relay, database) = (slow_relay(120).await, Database::new());
    let worker = Program::start(produce(&relay, &database, &queue.url())).await;
    let _steady = Program::start(consume(&queue.url(), &d1.url())).await;
    for kill in 1..=3 {
        let mut other = Program::start(consume(&queue.url(), &d1.url())).await;
        let wanted = kill * 15;
        until("some records are there", async || {
            records(&d1).await >= wanted
        })
        .await;
        if kill == 2 {
            d1.restart().await;
        }
        other.child.kill().await.unwrap();
    }
    drop(worker);
    let mut command = produce(&relay, &database, &queue.url());
    command.args(["--stop-after-idle", "1"]);
    let mut worker = Program::start(command).await;
    worker.logs("stopped").await;
    assert!(worker.child.wait().await.unwrap().success());
    until_empty(&queue).await;
    // Late requests of any age.
    for number in 0..d1.proxy.count() {
        d1.proxy.repeat(number).await;
    }
    until_removed(&d1).await;
    assert_is_true(&database, &relay).await;
    assert_follows(&d1, &database.path()).await;
    assert!(queue.dead_letters().await.is_empty());
}

fn target(d1: &D1) -> D1Target {
    match SinkOptions::new(None, &d1.url()).unwrap().target {
        Target::D1(options) => D1Target::new(options, "consume".into(), tables()),
        other => panic!("{other:?}"),
    }
}

const STANDS: &str = "SELECT change || '' AS change FROM records";

#[tokio::test(flavor = "multi_thread")]
async fn of_one_feed_the_later_change_replaces_in_d1_and_the_higher_rev_where_epochs_are_not_known()
{
    let Some(d1) = database().await else {
        return;
    };
    let mut target = target(&d1);
    let (first, second) = (task("e", 5, HIGH), task("g", 6, LOW));
    let none = Feeds::new();
    target.apply(&[&first], &none).await.unwrap();
    target.apply(&[&second], &none).await.unwrap();
    assert_eq!(d1.column(STANDS).await, ["5"]);
    let known = feeds(&[("e", 1), ("g", 6)], 6);
    target.apply(&[&second], &known).await.unwrap();
    assert_eq!(d1.column(STANDS).await, ["6"]);
    target.apply(&[&first], &known).await.unwrap();
    assert_eq!(d1.column(STANDS).await, ["6"]);
}

/// A queue without an order may hand out the older one later.
#[tokio::test(flavor = "multi_thread")]
async fn of_one_epoch_that_is_not_known_the_later_change_stands_in_d1() {
    let Some(d1) = database().await else {
        return;
    };
    let mut target = target(&d1);
    let none = Feeds::new();
    for task in [task("e", 6, LOW), task("e", 5, HIGH)] {
        target.apply(&[&task], &none).await.unwrap();
    }
    assert_eq!(d1.column(STANDS).await, ["6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_takes_back_neither_a_row_of_d1_nor_what_is_known_of_a_feed() {
    let Some(d1) = database().await else {
        return;
    };
    let mut target = target(&d1);
    let before = feeds(&[("e", 1)], 5);
    target.apply(&[&task("e", 5, HIGH)], &before).await.unwrap();
    let late = d1.proxy.count() - 1;
    let since = feeds(&[("e", 1), ("g", 6)], 6);
    target.apply(&[&task("g", 6, LOW)], &since).await.unwrap();
    d1.proxy.repeat(late).await;
    assert_eq!(d1.column(STANDS).await, ["6"]);
    let epochs =
        "SELECT epoch || ' ' || coalesce(through, '-') AS known FROM sink_epochs ORDER BY 1";
    assert_eq!(d1.column(epochs).await, ["e 5", "g -"]);
}

/// Versions of as many records, of one epoch that is not known.
fn tasks(count: u64) -> Vec<Task> {
    let tasks = (1..=count).map(|n| {
        let task = json!({
            "type": "upsert", "collection": "com.huddle.note", "did": "did:plc:ann",
            "rkey": format!("r{n}"), "uri": format!("at://did:plc:ann/com.huddle.note/r{n}"),
            "record": { "n": n }, "cid": "bafy", "timestamp": "2026-01-01T00:00:00.000Z",
            "rev": LOW, "seq": n, "source": "wss://relay", "feed": "f", "epoch": "e", "change": n,
            "verified": "none", "first_indexed_at": "2026-01-01T00:00:00.000Z",
            "last_indexed_at": "2026-01-01T00:00:00.000Z",
        });
        Task::parse(task.to_string().as_bytes()).unwrap()
    });
    tasks.collect()
}

/// The consumers of a process and its upkeep share it, and one of them gets the answer.
#[tokio::test(flavor = "multi_thread")]
async fn while_d1_asks_for_patience_none_of_those_that_share_the_target_asks_it() {
    let Some(d1) = database().await else {
        return;
    };
    let mut target = target(&d1);
    let none = Feeds::new();
    let tasks = tasks(2);
    let [first, second] = &tasks[..] else {
        panic!("two tasks");
    };
    target.apply(&[first], &none).await.unwrap();
    d1.proxy.script(|_| {
        let words = "Please wait and consider throttling your request speed";
        Fate::Refused(429, 971, words, "240")
    });
    let pause = |error: SinkError| match error {
        SinkError::Unavailable { retry_after, .. } => retry_after.unwrap(),
        other => panic!("{other}"),
    };
    let whole = Duration::from_secs(240);
    let both = [first, second];
    assert_eq!(pause(target.apply(&both, &none).await.unwrap_err()), whole);
    d1.proxy.script(|_| Fate::Answered);
    let asked = d1.proxy.count();
    assert!(pause(target.apply(&both, &none).await.unwrap_err()) <= whole);
    assert!(pause(target.do_upkeep().await.unwrap_err()) <= whole);
    assert_eq!(d1.proxy.count(), asked);
}

/// Each request that is answered counts, so a call that is cut off goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_are_too_much_for_d1_come_in_smaller_requests_and_none_is_sent_again() {
    let Some(d1) = database().await else {
        return;
    };
    let mut target = target(&d1);
    let none = Feeds::new();
    target.apply(&[], &none).await.unwrap();
    let written = Arc::new(AtomicU32::new(0));
    let of_script = written.clone();
    // Each call has one request carried out, of at most ten tasks, and no answer to the next one.
    let mut is_answered = false;
    d1.proxy.script(move |body| {
        let rows = body.matches("first_indexed_at").count();
        let tasks = (1..=60).filter(|n| body.contains(&format!("com.huddle.note/r{n}\\\"")));
        let tasks = tasks.count();
        if rows == 0 {
            return Fate::Answered;
        }
        is_answered = !is_answered && tasks <= 10;
        if is_answered {
            of_script.fetch_add(tasks as u32, Ordering::Relaxed);
        }
        match is_answered {
            true => Fate::Answered,
            false => Fate::Lost,
        }
    });
    let tasks = tasks(60);
    let tasks: Vec<&Task> = tasks.iter().collect();
    let mut calls = 0;
    while target.apply(&tasks, &none).await.is_err() {
        calls += 1;
        assert!(calls < 100, "it began anew for ever");
    }
    assert_eq!(written.load(Ordering::Relaxed), 60);
    assert_eq!(records(&d1).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_d1_refuses_is_a_dead_letter_and_the_others_go_on() {
    let Some((queue, d1)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = (1..=60).map(|n| put(ALICE, &format!("r{n}"), n));
    apply(&store, effects.collect(), 60).await;
    let _program = Program::start(consume(&queue.url(), &d1.url())).await;
    until("the tables are there", async || {
        let last = "SELECT name FROM sqlite_master WHERE name = 'lexicon_views'";
        !d1.column(last).await.is_empty()
    })
    .await;
    d1.execute(&[
        "CREATE TRIGGER not_this_one BEFORE INSERT ON records WHEN NEW.rkey = 'r37' \
                  BEGIN SELECT RAISE(ABORT, 'constraint failed: not_this_one'); END",
    ])
    .await;
    deliver(&store, &queue).await;
    until_empty(&queue).await;
    let letters = queue.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].body["rkey"], "r37");
    assert_eq!(letters[0].headers["Huddle-Attempts"], "4");
    assert!(letters[0].headers["Huddle-Error"].contains("not_this_one"));
    assert_eq!(records(&d1).await, 59);
}
