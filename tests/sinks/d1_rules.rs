//! What a D1 sink takes and refuses. Holds invariants 10.3, 10.5 and 10.6.

use huddle_firehose::sink::SinkError;
use serde_json::json;
use test_support::d1::{D1, assert_follows};

use crate::d1::{database, follow, follow_well, follower};
use crate::effects::*;
use crate::worker::Worker;

const STATES: &str = "SELECT did || ' ' || rkey || ' ' || coalesce(record ->> 'n', '-') AS state \
                      FROM records ORDER BY uri";

async fn count(d1: &D1, table: &str) -> u64 {
    let count = d1
        .column(&format!("SELECT count(*) AS n FROM {table}"))
        .await;
    count[0].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_large_removed_account_had_written_is_hidden_at_once_and_deleted_in_pieces() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let mut effects: Vec<_> = (1..=2500)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    effects.extend([offer(ALICE, "o", 2501), put(BOB, "b", 2502)]);
    worker.apply(effects, 2502).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;

    let removal = vec![account(ALICE, Some("deleted"), 2503)];
    worker.apply(removal, 2503).await;
    let again = [account(ALICE, None, 2504), put(ALICE, "r7", 2505)];
    worker.apply(again.into(), 2505).await;
    // Until the delivery is done.
    while sink.position() != Some(worker.store.feed().await.unwrap().last) {
        sink.step().await.unwrap();
    }
    let visible = "SELECT rkey FROM visible_records ORDER BY uri";
    assert_eq!(d1.column(visible).await, ["r7", "b"]);
    let none: [&str; 0] = [];
    assert_eq!(d1.column("SELECT rkey FROM open_offers").await, none);
    assert!(count(&d1, "records").await > 1000);
    // What comes late does not end the removal before its time.
    let last = d1.proxy.count() - 1;
    worker.finish_removals().await;
    follow_well(&mut sink).await;
    d1.proxy.repeat(last).await;
    assert_follows(&d1, &worker.database.path()).await;
    assert_eq!(count(&d1, "account_removals").await, 0);
    assert_eq!(count(&d1, "records").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_survive_a_removal_are_there_in_the_end() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let effects = (1..=9).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 9).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    let removal = vec![account(ALICE, Some("deleted"), 5)];
    worker.apply(removal, 9).await;
    worker.finish_removals().await;
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
    assert_eq!(d1.column(STATES).await.len(), 4);
}

/// An account of which no event spoke is deleted by the word of its host, which names no time.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_without_a_time_is_taken() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let effects = vec![put(ALICE, "a", 2), put(BOB, "b", 3)];
    worker.apply(effects, 3).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    let mut stranger = worker.database.stranger().await;
    let removal = "DELETE FROM records WHERE did = 'did:plc:alice'; \
                   UPDATE change_feed SET last = last + 1; \
                   INSERT INTO accounts (did, active, status, updated_at, change, removal_change) \
                   SELECT 'did:plc:alice', 0, 'deleted', '2026-01-01T00:00:00.000Z', last, last \
                   FROM change_feed";
    sqlx::raw_sql(removal).execute(&mut stranger).await.unwrap();
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
    assert_eq!(d1.column(STATES).await, ["did:plc:bob b 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_replaced_writes_nothing_more() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    let mut former = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut former).await;
    let mut present = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut present).await;
    worker.apply(vec![put(ALICE, "a", 2)], 2).await;
    let refused = loop {
        match former.step().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SinkError::Superseded);
    assert_eq!(d1.column(STATES).await, ["did:plc:alice a 1"]);
    follow_well(&mut present).await;
    assert_eq!(d1.column(STATES).await, ["did:plc:alice a 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "first", 1)], 1).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    let refusal = "CREATE TRIGGER refusal BEFORE INSERT ON records WHEN NEW.rkey IN ('r30', 'r31') \
                   BEGIN SELECT RAISE(ABORT, 'constraint failed: by its key'); END";
    d1.execute(&[refusal]).await;
    let effects = (2..=60).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 60).await;
    follow_well(&mut sink).await;
    assert_eq!(count(&d1, "records").await, 58);
    let letters = "SELECT stage || ' ' || source || ' ' || uri || ' ' || attempts FROM dead_letters \
                   ORDER BY uri";
    let letter = |rkey: &str| format!("sink sink:d1 at://{ALICE}/{PROFILE}/{rkey} 4");
    assert_eq!(
        worker.database.rows(letters).await,
        [letter("r30"), letter("r31")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_records_are_in_no_view_and_ended_requests_go_by_age() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let effects = vec![
        put(ALICE, "a", 1),
        offer(ALICE, "o", 2),
        request(BOB, "old", 3, "declined"),
        request(BOB, "open", 4, "pending"),
    ];
    worker.apply(effects, 4).await;
    worker.adopt(&["com.huddle.*"]).await;
    worker.adopt(&["com.huddle.slotOffer"]).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
    let visible = "SELECT rkey FROM visible_records ORDER BY uri";
    assert_eq!(d1.column(visible).await, ["o"]);
    // A purge of the sink, by its own rule and age.
    let long_ago = "UPDATE booking_requests SET indexed_at = '2020-01-01T00:00:00.000Z'";
    d1.execute(&[long_ago]).await;
    follow_well(&mut sink).await;
    let requests = "SELECT rkey FROM booking_requests";
    assert_eq!(d1.column(requests).await, ["open"]);
}

/// A row of D1 has 2 MB, and text has no U+0000 there.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_omitted_and_its_row_is_there() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let large = json!({ "$type": PROFILE, "text": "x".repeat(1_600_000) });
    let odd = json!({ "$type": PROFILE, "text": "a\u{0}b\\u0000 \u{10ffff}\"", "n": 9007199254740993_i64 });
    let effects = vec![
        record(ALICE, PROFILE, "large", 1, &large),
        record(ALICE, PROFILE, "odd", 2, &odd),
        put(ALICE, "small", 3),
    ];
    worker.apply(effects, 3).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    let rows = "SELECT rkey || ' ' || omitted || ' ' || deleted || ' ' || (record IS NULL) AS row \
                FROM visible_records ORDER BY uri";
    let rows = rows.replace("deleted", "validity");
    assert_eq!(
        d1.column(&rows).await,
        ["large 1 valid 1", "odd 0 valid 0", "small 0 valid 0"]
    );
    let odd = "SELECT record FROM records WHERE rkey = 'odd'";
    assert_eq!(d1.column(odd).await, worker.database.rows(odd).await);
    // It becomes small, and then it goes.
    worker.apply(vec![put(ALICE, "large", 4)], 4).await;
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
    worker.apply(vec![delete(ALICE, "large", 5)], 5).await;
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
}

/// The token and the address of the API.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_asked_at_its_path_and_without_the_token_nothing_is_taken() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    follow_well(&mut follower(&d1.api_url(), &worker.store, "d1")).await;
    assert_follows(&d1, &worker.database.path()).await;
    for path in d1.proxy.paths() {
        assert_eq!(path, "/client/v4/accounts/acc/d1/database/data-base/query");
    }
    let wrong = worker.database.folder().join("wrong");
    std::fs::write(&wrong, "another\n").unwrap();
    let url = format!("{}&token_file={}", d1.api_url(), wrong.display());
    let refused = follower(&url, &worker.store, "d1")
        .step()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
}

/// Two workers with a database each. Holds invariant 10.6.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_the_one_that_is_behind_takes_nothing_back() {
    let Some(d1) = database().await else {
        return;
    };
    let (ahead, behind) = (Worker::new().await, Worker::new().await);
    let history = |to: u64| -> Vec<_> {
        let all = vec![
            identity(ALICE, "old.example", 1),
            put(ALICE, "a", 2),
            put(ALICE, "b", 3),
            put(BOB, "c", 4),
            put(ALICE, "a", 5),
            identity(ALICE, "new.example", 6),
            delete(BOB, "c", 7),
        ];
        all.into_iter().take(to as usize).collect()
    };
    let mut of_ahead = follower(&d1.url(), &ahead.store, "one");
    let mut of_behind = follower(&d1.url(), &behind.store, "two");
    ahead.apply(history(7), 7).await;
    follow_well(&mut of_ahead).await;
    let expected = ["did:plc:alice a 5", "did:plc:alice b 3", "did:plc:bob c -"];
    assert_eq!(d1.column(STATES).await, expected);
    for to in [4, 5, 7] {
        behind.apply(history(to), to).await;
        follow_well(&mut of_behind).await;
        assert_eq!(d1.column(STATES).await, expected);
        let handles = d1.column("SELECT handle FROM accounts").await;
        assert_eq!(handles, ["new.example"]);
    }
    // The one that was behind goes on alone.
    behind.apply(vec![put(BOB, "c", 8)], 8).await;
    follow_well(&mut of_behind).await;
    assert_eq!(d1.column(STATES).await[2], "did:plc:bob c 8");
    let positions = "SELECT sink FROM sink_positions ORDER BY sink";
    assert_eq!(d1.column(positions).await, ["one", "two"]);
}

/// Holds invariant 10.6.
#[tokio::test(flavor = "multi_thread")]
async fn the_projection_of_a_record_that_was_refused_stays_that_of_the_row() {
    let Some(d1) = database().await else {
        return;
    };
    let (ahead, behind) = (Worker::new().await, Worker::new().await);
    let old = offer(ALICE, "o", 1);
    ahead
        .apply(vec![old.clone(), offer(ALICE, "o", 2)], 2)
        .await;
    follow_well(&mut follower(&d1.url(), &ahead.store, "one")).await;
    behind.apply(vec![old], 1).await;
    follow_well(&mut follower(&d1.url(), &behind.store, "two")).await;
    let titles = "SELECT title FROM offers_index";
    assert_eq!(d1.column(titles).await, ["lesson 2"]);
    assert_follows(&d1, &ahead.database.path()).await;
}

/// Holds invariant 10.6.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_worker_has_removed_the_other_does_not_bring_back() {
    let Some(d1) = database().await else {
        return;
    };
    let (ahead, behind) = (Worker::new().await, Worker::new().await);
    let mut of_ahead = follower(&d1.url(), &ahead.store, "one");
    let mut of_behind = follower(&d1.url(), &behind.store, "two");
    let records = || vec![put(ALICE, "a", 2), put(ALICE, "b", 3), put(BOB, "c", 4)];
    behind.apply(records(), 4).await;
    follow_well(&mut of_behind).await;
    ahead.apply(records(), 4).await;
    let removal = || vec![account(ALICE, Some("deleted"), 5)];
    ahead.apply(removal(), 5).await;
    ahead.finish_removals().await;
    follow_well(&mut of_ahead).await;
    assert_eq!(d1.column(STATES).await, ["did:plc:bob c 4"]);
    // An update from before the deletion, which the one behind has only now.
    behind.apply(vec![put(ALICE, "a", 4)], 4).await;
    follow_well(&mut of_behind).await;
    assert_eq!(d1.column(STATES).await, ["did:plc:bob c 4"]);
    // The account returns.
    let back = || vec![account(ALICE, None, 6), put(ALICE, "a", 7)];
    behind.apply(removal(), 5).await;
    behind.apply(back(), 7).await;
    behind.finish_removals().await;
    follow_well(&mut of_behind).await;
    let expected = ["did:plc:alice a 7", "did:plc:bob c 4"];
    assert_eq!(d1.column(STATES).await, expected);
    ahead.apply(back(), 7).await;
    follow_well(&mut of_ahead).await;
    assert_eq!(d1.column(STATES).await, expected);
}

/// Two workers that read the same events, each at its own pace, in any order of their deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_any_pace_make_the_tables_of_either() {
    let Some(d1) = database().await else {
        return;
    };
    let mut random = fastrand::Rng::with_seed(1);
    let events: Vec<_> = (1..=80)
        .map(|seq| {
            let did = [ALICE, BOB][random.usize(..2)];
            let rkey = format!("r{}", random.u32(..4));
            match random.u32(..12) {
                0 => account(did, Some("deleted"), seq),
                1 => account(did, None, seq),
                2 => identity(did, &format!("h{seq}.example"), seq),
                3 => delete(did, &rkey, seq),
                4 => offer(did, &rkey, seq),
                _ => put(did, &rkey, seq),
            }
        })
        .collect();
    let workers = [Worker::new().await, Worker::new().await];
    let names = ["one", "two"];
    let mut sinks = [0, 1].map(|n| follower(&d1.url(), &workers[n].store, names[n]));
    let mut read = [0, 0];
    while read != [events.len(); 2] {
        let worker = random.usize(..2);
        let count = random.usize(1..6).min(events.len() - read[worker]);
        for _ in 0..count {
            let event = events[read[worker]].clone();
            read[worker] += 1;
            let seq = read[worker] as u64;
            workers[worker].apply(vec![event], seq).await;
        }
        for (worker, sink) in sinks.iter_mut().enumerate() {
            if random.u32(..3) == 0 {
                follow_well(sink).await;
            }
            if random.u32(..10) == 0 {
                *sink = follower(&d1.url(), &workers[worker].store, names[worker]);
            }
        }
    }
    for (worker, sink) in workers.iter().zip(&mut sinks) {
        worker.finish_removals().await;
        follow(sink).await;
    }
    let records = "SELECT uri || ' ' || rev || ' ' || coalesce(cid, '-') FROM records ORDER BY uri";
    let expected = workers[0].database.rows(records).await;
    assert_eq!(workers[1].database.rows(records).await, expected);
    assert_eq!(d1.column(records).await, expected);
    let offers = "SELECT uri || ' ' || rev || ' ' || title FROM offers_index ORDER BY uri";
    let expected = workers[0].database.rows(offers).await;
    assert_eq!(d1.column(offers).await, expected);
    let kept = "SELECT did || ' ' || coalesce(handle, '-') || ' ' || active || ' ' \
                || coalesce(status, '-') FROM accounts WHERE change IS NOT NULL ORDER BY did";
    let expected = workers[0].database.rows(kept).await;
    assert_eq!(d1.column(kept).await, expected);
}
