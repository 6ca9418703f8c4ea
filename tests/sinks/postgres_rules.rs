//! What a Postgres sink takes and refuses. Holds invariants 10.3 and 10.5.

use std::sync::Arc;

use huddle_firehose::sink::SinkError;
use serde_json::json;
use test_support::postgres::{Schema, assert_follows};

use crate::effects::*;
use crate::postgres::{follow, follower};
use crate::worker::Worker;

const STATES: &str = "SELECT did || ' ' || rkey || ' ' || coalesce(record ->> 'n', '-') FROM records \
                      ORDER BY uri";

#[tokio::test]
async fn what_a_large_removed_account_had_written_is_hidden_at_once_and_deleted_in_pieces() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    let mut effects: Vec<_> = (1..=2500)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    effects.extend([offer(ALICE, "o", 2501), put(BOB, "b", 2502)]);
    worker.apply(effects, 2502).await;
    let mut sink = follower(&schema, &worker.store, "postgres");
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;

    worker
        .apply(vec![account(ALICE, Some("deleted"), 2503)], 2503)
        .await;
    let again = [account(ALICE, None, 2504), put(ALICE, "r7", 2505)];
    worker.apply(again.into(), 2505).await;
    // Until the delivery is done.
    while sink.position() != Some(worker.store.feed().await.unwrap().last) {
        sink.step().await.unwrap();
    }
    let visible = "SELECT rkey FROM visible_records ORDER BY uri";
    assert_eq!(schema.column(visible).await, ["r7", "b"]);
    let none: [&str; 0] = [];
    assert_eq!(schema.column("SELECT rkey FROM open_offers").await, none);
    let left = schema
        .column("SELECT (count(*) > 1000)::text FROM records")
        .await;
    assert_eq!(left, ["true"]);
    worker.finish_removals().await;
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;
    let markers = "SELECT count(*)::text FROM account_removals";
    assert_eq!(schema.column(markers).await, ["0"]);
}

#[tokio::test]
async fn records_that_survive_a_removal_are_there_in_the_end() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    let effects = (1..=9).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 9).await;
    let mut sink = follower(&schema, &worker.store, "postgres");
    follow(&mut sink).await;
    worker
        .apply(vec![account(ALICE, Some("deleted"), 5)], 9)
        .await;
    worker.finish_removals().await;
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;
    assert_eq!(schema.column(STATES).await.len(), 4);
}

/// An account of which no event spoke is deleted by the word of its host, which names no time. A handle
/// that is not known has none either.
#[tokio::test]
async fn a_removal_and_a_row_without_a_time_are_taken() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    let unknown_handle = huddle_firehose::store::plan::effect::IdentityChange {
        did: huddle_firehose::atproto::syntax::Did::parse(BOB).unwrap(),
        handle: None,
        seq: 1,
        time: jiff::Timestamp::UNIX_EPOCH,
    };
    let unknown_handle = huddle_firehose::store::plan::effect::Effect::Identity(unknown_handle);
    let effects = vec![unknown_handle, put(ALICE, "a", 2), put(BOB, "b", 3)];
    worker.apply(effects, 3).await;
    let mut sink = follower(&schema, &worker.store, "postgres");
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;
    let mut stranger = worker.database.stranger().await;
    let removal = "DELETE FROM records WHERE did = 'did:plc:alice'; \
                   UPDATE change_feed SET last = last + 1; \
                   INSERT INTO accounts (did, active, status, updated_at, change, removal_change) \
                   SELECT 'did:plc:alice', 0, 'deleted', '2026-01-01T00:00:00.000Z', last, last \
                   FROM change_feed";
    sqlx::raw_sql(removal).execute(&mut stranger).await.unwrap();
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;
    assert_eq!(schema.column(STATES).await, ["did:plc:bob b 3"]);
}

#[tokio::test]
async fn a_process_that_was_replaced_writes_nothing_more() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    let mut former = follower(&schema, &worker.store, "postgres");
    follow(&mut former).await;
    let mut present = follower(&schema, &worker.store, "postgres");
    follow(&mut present).await;
    worker.apply(vec![put(ALICE, "a", 2)], 2).await;
    follow(&mut present).await;
    let refused = loop {
        match former.step().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SinkError::Superseded);
    assert_eq!(schema.column(STATES).await, ["did:plc:alice a 2"]);
}

#[tokio::test]
async fn a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "first", 1)], 1).await;
    let mut sink = follower(&schema, &worker.store, "postgres");
    follow(&mut sink).await;
    schema
        .execute("ALTER TABLE records ADD CHECK (rkey <> 'r30' AND rkey <> 'r31')")
        .await;
    let effects = (2..=60).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 60).await;
    follow(&mut sink).await;
    let count = "SELECT count(*)::text FROM records";
    assert_eq!(schema.column(count).await, ["58"]);
    let letters = "SELECT stage || ' ' || source || ' ' || uri || ' ' || attempts FROM dead_letters \
                   ORDER BY uri";
    let letter = |rkey: &str| format!("sink sink:postgres at://{ALICE}/{PROFILE}/{rkey} 4");
    assert_eq!(
        worker.database.rows(letters).await,
        [letter("r30"), letter("r31")]
    );
    // The next version of such a record is delivered as any other.
    worker.apply(vec![put(ALICE, "r29", 61)], 61).await;
    follow(&mut sink).await;
    let stands = "SELECT record ->> 'n' FROM records WHERE rkey = 'r29'";
    assert_eq!(schema.column(stands).await, ["61"]);
}

#[tokio::test]
async fn hidden_records_are_in_no_view_and_ended_requests_go_by_age() {
    let Some(schema) = Schema::new().await else {
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
    let mut sink = follower(&schema, &worker.store, "postgres");
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;
    let visible = "SELECT rkey FROM visible_records ORDER BY uri";
    assert_eq!(schema.column(visible).await, ["o"]);
    // A purge of the sink, by its own rule and age.
    schema
        .execute("UPDATE booking_requests SET indexed_at = now() - interval '31 days'")
        .await;
    drop(sink);
    follow(&mut follower(&schema, &worker.store, "postgres")).await;
    let requests = "SELECT rkey FROM booking_requests";
    assert_eq!(schema.column(requests).await, ["open"]);
}

#[tokio::test]
async fn text_that_postgres_has_no_place_for_is_replaced() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    let odd = json!({ "$type": PROFILE, "text": "a\u{0}b\\u0000 \u{10ffff}", "n": 7 });
    worker
        .apply(vec![record(ALICE, PROFILE, "a", 1, &odd)], 1)
        .await;
    follow(&mut follower(&schema, &worker.store, "postgres")).await;
    let text = schema.column("SELECT record ->> 'text' FROM records").await;
    assert_eq!(text, ["a\u{fffd}b\\u0000 \u{10ffff}"]);
    assert_follows(&schema, &worker.database.path()).await;
}

/// Two workers with a database each. Holds invariant 10.6.
#[tokio::test]
async fn of_two_workers_the_one_that_is_behind_takes_nothing_back() {
    let Some(schema) = Schema::new().await else {
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
    let mut of_ahead = follower(&schema, &ahead.store, "one");
    let mut of_behind = follower(&schema, &behind.store, "two");
    ahead.apply(history(7), 7).await;
    follow(&mut of_ahead).await;
    let expected = ["did:plc:alice a 5", "did:plc:alice b 3", "did:plc:bob c -"];
    let handles = "SELECT handle FROM accounts";
    assert_eq!(schema.column(STATES).await, expected);
    for to in [4, 5, 7] {
        behind.apply(history(to), to).await;
        follow(&mut of_behind).await;
        assert_eq!(schema.column(STATES).await, expected);
        assert_eq!(schema.column(handles).await, ["new.example"]);
    }
    // The one that was behind goes on alone.
    behind.apply(vec![put(BOB, "c", 8)], 8).await;
    follow(&mut of_behind).await;
    let states = schema.column(STATES).await;
    assert_eq!(states[2], "did:plc:bob c 8");
    let positions = "SELECT sink FROM sink_positions ORDER BY sink";
    assert_eq!(schema.column(positions).await, ["one", "two"]);
}

/// Holds invariant 10.6.
#[tokio::test]
async fn what_one_worker_has_removed_the_other_does_not_bring_back() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (ahead, behind) = (Worker::new().await, Worker::new().await);
    let mut of_ahead = follower(&schema, &ahead.store, "one");
    let mut of_behind = follower(&schema, &behind.store, "two");
    let records = || vec![put(ALICE, "a", 2), put(ALICE, "b", 3), put(BOB, "c", 4)];
    behind.apply(records(), 4).await;
    follow(&mut of_behind).await;
    ahead.apply(records(), 4).await;
    ahead
        .apply(vec![account(ALICE, Some("deleted"), 5)], 5)
        .await;
    ahead.finish_removals().await;
    follow(&mut of_ahead).await;
    assert_eq!(schema.column(STATES).await, ["did:plc:bob c 4"]);
    // An update from before the deletion, which the one behind has only now.
    behind.apply(vec![put(ALICE, "a", 4)], 4).await;
    follow(&mut of_behind).await;
    assert_eq!(schema.column(STATES).await, ["did:plc:bob c 4"]);
    // The account returns.
    let back = || vec![account(ALICE, None, 6), put(ALICE, "a", 7)];
    behind
        .apply(vec![account(ALICE, Some("deleted"), 5)], 5)
        .await;
    behind.apply(back(), 7).await;
    behind.finish_removals().await;
    follow(&mut of_behind).await;
    assert_eq!(
        schema.column(STATES).await,
        ["did:plc:alice a 7", "did:plc:bob c 4"]
    );
    ahead.apply(back(), 7).await;
    follow(&mut of_ahead).await;
    assert_eq!(
        schema.column(STATES).await,
        ["did:plc:alice a 7", "did:plc:bob c 4"]
    );
}

/// Two workers that read the same events, each at its own pace, in any order of their deliveries.
#[tokio::test]
async fn two_workers_of_any_pace_make_the_tables_of_either() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    for seed in 0..3 {
        let mut random = fastrand::Rng::with_seed(seed);
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
        let name = |worker| format!("s{seed}-{worker}");
        let mut sinks = [
            follower(&schema, &workers[0].store, &name(0)),
            follower(&schema, &workers[1].store, &name(1)),
        ];
        let mut read = [0, 0];
        while read != [events.len(); 2] {
            let worker = random.usize(..2);
            let count = random.usize(1..6).min(events.len() - read[worker]);
            for _ in 0..count {
                let event = events[read[worker]].clone();
                read[worker] += 1;
                workers[worker]
                    .apply(vec![event], read[worker] as u64)
                    .await;
            }
            for (worker, sink) in sinks.iter_mut().enumerate() {
                if random.u32(..3) == 0 {
                    follow(sink).await;
                }
                if random.u32(..10) == 0 {
                    *sink = follower(&schema, &workers[worker].store, &name(worker));
                }
            }
        }
        for (worker, sink) in workers.iter().zip(&mut sinks) {
            worker.finish_removals().await;
            follow(sink).await;
        }
        let sqlite =
            "SELECT uri || ' ' || rev || ' ' || coalesce(cid, '-') FROM records ORDER BY uri";
        let expected = workers[0].database.rows(sqlite).await;
        assert_eq!(
            workers[1].database.rows(sqlite).await,
            expected,
            "seed {seed}"
        );
        assert_eq!(schema.column(sqlite).await, expected, "seed {seed}");
        let accounts = "SELECT did || ' ' || coalesce(handle, '-') || ' ' || active || ' ' \
                        || coalesce(status, '-') FROM accounts ORDER BY did";
        let kept = "SELECT did || ' ' || coalesce(handle, '-') || ' ' || active || ' ' \
                    || coalesce(status, '-') FROM accounts WHERE change IS NOT NULL ORDER BY did";
        let expected = workers[0].database.rows(kept).await;
        assert_eq!(schema.column(accounts).await, expected, "seed {seed}");
        schema
            .execute("TRUNCATE records, accounts, offers_index, sink_positions, account_removals")
            .await;
    }
}

/// A loss of power took the last change, and the next start gives its number out again. Holds invariant
/// 10.2.
#[tokio::test]
async fn a_row_whose_change_was_lost_is_written_again_at_the_same_rev_and_time() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let Worker { database, store } = Worker::new().await;
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    let copy = database.backup().await;
    apply(&store, vec![put(ALICE, "a", 2)], 2).await;
    follow(&mut follower(&schema, &store, "postgres")).await;
    let written = database.rows("SELECT last_indexed_at FROM records").await;
    drop(store);
    database.replace_by(&copy);

    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 2)], 2).await;
    sqlx::query("UPDATE records SET last_indexed_at = ?, invalid_reason = 'judged again'")
        .bind(&written[0])
        .execute(&mut database.stranger().await)
        .await
        .unwrap();
    follow(&mut follower(&schema, &store, "postgres")).await;
    let reasons = "SELECT coalesce(invalid_reason, '-') FROM records";
    assert_eq!(schema.column(reasons).await, ["judged again"]);
}
