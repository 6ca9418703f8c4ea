//! A D1 sink behind a network that loses, delays and repeats requests, before a service that restarts,
//! refuses and is put back. Holds invariants 10.1, 10.3 and 10.4.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use huddle_firehose::sink::{Pace, SinkError};
use huddle_firehose::store::plan::effect::Effect;
use serde_json::{Value, json};
use test_support::d1::assert_follows;
use test_support::http_proxy::Fate;

use crate::d1::{database, follow, follow_well, follower};
use crate::effects::*;
use crate::worker::Worker;

/// Random events, each of its own seq.
fn events(random: &mut fastrand::Rng, from: u64, count: u64) -> Vec<Effect> {
    let event = |seq| {
        let did = [ALICE, BOB][random.usize(..2)];
        let rkey = format!("r{}", random.u32(..9));
        match random.u32(..16) {
            0 => account(did, Some("deleted"), seq),
            1 => account(did, None, seq),
            2 => identity(did, &format!("h{seq}.example"), seq),
            3 => delete(did, &rkey, seq),
            4 => offer(did, &rkey, seq),
            5 => request(did, &rkey, seq, "pending"),
            _ => put(did, &rkey, seq),
        }
    };
    (from..from + count).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_late_or_repeated_the_tables_are_those_of_the_worker() {
    for seed in 0..3 {
        let Some(d1) = database().await else {
            return;
        };
        let mut random = fastrand::Rng::with_seed(seed);
        let worker = Worker::new().await;
        let mut of_network = random.fork();
        d1.proxy.script(move |_| match of_network.u32(..20) {
            0..3 => Fate::Lost,
            3..6 => Fate::AnswerLost,
            6 => Fate::Refused(500, 7500, "D1_ERROR: Network connection lost.", "0"),
            7 => Fate::Refused(
                429,
                971,
                "Please wait and consider throttling your request speed",
                "1",
            ),
            _ => Fate::Answered,
        });
        let mut sink = follower(&d1.url(), &worker.store, "d1");
        let mut seq = 0;
        for round in 0..30 {
            let count = random.u64(1..12);
            for event in events(&mut random, seq + 1, count) {
                seq += 1;
                worker.apply(vec![event], seq).await;
            }
            if random.u32(..4) == 0 {
                worker.finish_removals().await;
            }
            // Some steps, not always to the end.
            for _ in 0..random.u32(..8) {
                // An error is what the network did.
                let _stepped = sink.step().await;
            }
            // What was held back comes now, or what was answered comes again.
            for _ in 0..3 {
                let seen = d1.proxy.count();
                if seen > 0 {
                    d1.proxy.repeat(random.usize(..seen)).await;
                }
            }
            if round % 12 == 7 {
                d1.restart().await;
            }
            if random.u32(..5) == 0 {
                sink = follower(&d1.url(), &worker.store, "d1");
            }
        }
        worker.finish_removals().await;
        follow(&mut sink).await;
        // Late requests of any age.
        for number in 0..d1.proxy.count() {
            d1.proxy.repeat(number).await;
        }
        assert_follows(&d1, &worker.database.path()).await;
    }
}

/// The former process has sent a delivery that the network holds back.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_of_a_former_process_is_refused_by_the_guard() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    let mut former = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut former).await;
    worker.apply(vec![put(ALICE, "a", 2)], 2).await;
    d1.proxy
        .script(|body| match body.contains("INSERT INTO records") {
            true => Fate::Lost,
            false => Fate::Answered,
        });
    while former.step().await.is_ok() {}
    let late = d1.proxy.count() - 1;
    d1.proxy.script(|_| Fate::Answered);
    let mut present = follower(&d1.url(), &worker.store, "d1");
    // It has taken over, and delivered nothing yet.
    assert_eq!(present.step().await, Ok(Pace::Next(0)));
    let answer: Value = serde_json::from_str(&d1.proxy.repeat(late).await).unwrap();
    let words = answer["errors"][0]["message"].as_str().unwrap();
    assert!(words.contains("sink_position_is_held"), "{words}");
    let stands = "SELECT record ->> 'n' AS n FROM records";
    assert_eq!(d1.column(stands).await, ["1"]);
    follow_well(&mut present).await;
    assert_follows(&d1, &worker.database.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_emptied_gets_everything_and_one_that_was_put_back_what_it_lacks() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let mut random = fastrand::Rng::with_seed(3);
    let mut seq = 0;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    let mut grow = async |seq: &mut u64| {
        for event in events(&mut random, *seq + 1, 30) {
            *seq += 1;
            worker.apply(vec![event], *seq).await;
        }
        worker.finish_removals().await;
    };
    grow(&mut seq).await;
    follow_well(&mut sink).await;
    let copy = d1.copy().await;
    grow(&mut seq).await;
    follow(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;

    d1.put_back(&copy).await;
    grow(&mut seq).await;
    let errors = follow(&mut sink).await;
    assert!(errors.contains(&SinkError::Superseded), "{errors:?}");
    assert_follows(&d1, &worker.database.path()).await;

    d1.empty().await;
    grow(&mut seq).await;
    assert!(!follow(&mut sink).await.is_empty());
    assert_follows(&d1, &worker.database.path()).await;

    // By hand, with the notes of wrangler left behind; then the rows alone.
    let tables = "SELECT type || ' ' || name AS name FROM sqlite_master \
                  WHERE type IN ('table', 'view') AND name NOT LIKE '\\_cf%' ESCAPE '\\' \
                  AND name NOT LIKE 'sqlite%' AND name <> 'd1_migrations' ORDER BY type DESC";
    for name in d1.column(tables).await {
        d1.execute(&[&format!("DROP {name}")]).await;
    }
    grow(&mut seq).await;
    // It meets the missing tables amid a delivery, and no change is at fault.
    while sink.step().await.is_ok() {}
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
    let none: [String; 0] = [];
    let letters = "SELECT error FROM dead_letters";
    assert_eq!(worker.database.rows(letters).await, none);
    let rows = [
        "DELETE FROM records",
        "DELETE FROM accounts",
        "DELETE FROM sink_positions",
    ];
    d1.execute(&rows).await;
    follow_well(&mut follower(&d1.url(), &worker.store, "d1")).await;
    assert_follows(&d1, &worker.database.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_asks_for_patience_is_asked_again_when_it_said_so() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    let asked = Arc::new(AtomicU32::new(0));
    let of_script = asked.clone();
    d1.proxy
        .script(move |_| match of_script.fetch_add(1, Ordering::Relaxed) {
            0 => Fate::Refused(
                429,
                971,
                "Please wait and consider throttling your request speed",
                "2",
            ),
            1 => Fate::Refused(
                500,
                7500,
                "D1 DB is overloaded. Too many requests queued.",
                "1",
            ),
            _ => Fate::Answered,
        });
    let errors = follow(&mut follower(&d1.url(), &worker.store, "d1")).await;
    let waits = errors.iter().map(|error| match error {
        SinkError::Unavailable { retry_after, .. } => *retry_after,
        other => panic!("{other}"),
    });
    let waits: Vec<_> = waits.collect();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(waits, [seconds(2), seconds(1)]);
    assert_follows(&d1, &worker.database.path()).await;
}

/// D1 ends a batch that takes too much of its time or memory, and says nothing of rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_much_for_d1_comes_in_smaller_ones() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let effects = (1..=900).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 900).await;
    d1.proxy.script(
        |body| match body.matches("first_indexed_at").count() > 100 {
            true => Fate::Refused(
                500,
                7500,
                "D1 DB exceeded its CPU time limit and was reset.",
                "",
            ),
            false => Fate::Answered,
        },
    );
    let errors = follow(&mut follower(&d1.url(), &worker.store, "d1")).await;
    assert!(!errors.is_empty());
    assert_follows(&d1, &worker.database.path()).await;
    let none: [String; 0] = [];
    let letters = "SELECT error FROM dead_letters";
    assert_eq!(worker.database.rows(letters).await, none);
}

/// A delivery of many rows is cut by their bytes and their number, and each part is within what D1 takes.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_has_more_than_d1_takes() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let text = "\"".repeat(20_000);
    let large = json!({ "$type": PROFILE, "text": text });
    let mut effects: Vec<_> = (1..=200)
        .map(|n| record(ALICE, PROFILE, &format!("l{n}"), n, &large))
        .collect();
    effects.extend((201..=2600).map(|n| put(ALICE, &format!("s{n}"), n)));
    worker.apply(effects, 2600).await;
    d1.proxy.script(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        for statement in body["batch"].as_array().unwrap() {
            assert!(statement["sql"].as_str().unwrap().len() < 100_000);
            let params = statement["params"].as_array().unwrap();
            assert!(params.len() < 100);
            for param in params {
                let rows: Option<Vec<Value>> = serde_json::from_str(param.as_str().unwrap()).ok();
                assert!(rows.is_none_or(|rows| rows.len() <= 1000));
                assert!(param.as_str().unwrap().len() < 2_000_000);
            }
        }
        Fate::Answered
    });
    follow_well(&mut follower(&d1.url(), &worker.store, "d1")).await;
    assert_follows(&d1, &worker.database.path()).await;
}
