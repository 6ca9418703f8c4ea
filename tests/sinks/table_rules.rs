//! The rules that are the same for every sink of tables, whatever its engine. The tests of each engine call
//! them.

use std::path::Path;
use std::sync::Arc;

use huddle_firehose::sink::{Follower, SinkError};
use huddle_firehose::store::plan::effect::{Effect, IdentityChange};
use huddle_firehose::store::sqlite::SqliteStore;

use crate::effects::*;
use crate::worker::Worker;

/// A database of one engine, and a sink that writes into it.
pub(crate) trait Tables {
    /// A follower of `store`'s feed with a sink of this name.
    fn follower(&self, store: &Arc<SqliteStore>, name: &str) -> Follower;

    /// Follows the feed to its end.
    async fn follow(&self, follower: &mut Follower);

    /// The only column of a query. Its values are text.
    async fn column(&self, query: &str) -> Vec<String>;

    /// Asserts that the tables are those of the worker's database at `file`.
    async fn assert_follow(&self, file: &Path);
}

/// Makes a test of each of these rules, for the engine of `$tables`. Without the engine it is skipped.
macro_rules! test_rules {
    ($tables:expr; $($rule:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                if let Some(tables) = $tables {
                    $crate::table_rules::$rule(&tables).await;
                }
            }
        )+
    };
}
pub(crate) use test_rules;

pub(crate) const STATES: &str = "SELECT did || ' ' || rkey || ' ' || coalesce(record ->> 'n', '-') \
                                 AS state FROM records ORDER BY uri";
const VISIBLE: &str = "SELECT rkey FROM visible_records ORDER BY uri";

/// What a large removed account had written is hidden at once, while only a piece of it is deleted. Returns
/// the worker, and its sink amid the removal.
pub(crate) async fn amid_a_large_removal(tables: &impl Tables) -> (Worker, Follower) {
    let worker = Worker::new().await;
    let mut effects: Vec<_> = (1..=2500)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    effects.extend([offer(ALICE, "o", 2501), put(BOB, "b", 2502)]);
    worker.apply(effects, 2502).await;
    let mut sink = tables.follower(&worker.store, "sink");
    tables.follow(&mut sink).await;
    tables.assert_follow(&worker.database.path()).await;

    let removal = vec![account(ALICE, Some("deleted"), 2503)];
    worker.apply(removal, 2503).await;
    let again = [account(ALICE, None, 2504), put(ALICE, "r7", 2505)];
    worker.apply(again.into(), 2505).await;
    // Until the delivery is done.
    while sink.position() != Some(worker.store.feed().await.unwrap().last) {
        sink.step().await.unwrap();
    }
    assert_eq!(tables.column(VISIBLE).await, ["r7", "b"]);
    let none: [&str; 0] = [];
    assert_eq!(tables.column("SELECT rkey FROM open_offers").await, none);
    assert!(tables.column(STATES).await.len() > 1000);
    (worker, sink)
}

pub(crate) async fn records_that_survive_a_removal_are_there_in_the_end(tables: &impl Tables) {
    let worker = Worker::new().await;
    let effects = (1..=9).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 9).await;
    let mut sink = tables.follower(&worker.store, "sink");
    tables.follow(&mut sink).await;
    let removal = vec![account(ALICE, Some("deleted"), 5)];
    worker.apply(removal, 9).await;
    worker.finish_removals().await;
    tables.follow(&mut sink).await;
    tables.assert_follow(&worker.database.path()).await;
    assert_eq!(tables.column(STATES).await.len(), 4);
}

/// An account of which no event spoke is deleted by the word of its host, which names no time. A handle
/// that is not known has none either.
pub(crate) async fn a_removal_and_a_row_without_a_time_are_taken(tables: &impl Tables) {
    let worker = Worker::new().await;
    let unknown_handle = Effect::Identity(IdentityChange {
        did: huddle_firehose::atproto::syntax::Did::parse(BOB).unwrap(),
        handle: None,
        seq: 1,
        time: jiff::Timestamp::UNIX_EPOCH,
    });
    let effects = vec![unknown_handle, put(ALICE, "a", 2), put(BOB, "b", 3)];
    worker.apply(effects, 3).await;
    let mut sink = tables.follower(&worker.store, "sink");
    tables.follow(&mut sink).await;
    tables.assert_follow(&worker.database.path()).await;
    let mut stranger = worker.database.stranger().await;
    let removal = "DELETE FROM records WHERE did = 'did:plc:alice'; \
                   UPDATE change_feed SET last = last + 1; \
                   INSERT INTO accounts (did, active, status, updated_at, change, removal_change) \
                   SELECT 'did:plc:alice', 0, 'deleted', '2026-01-01T00:00:00.000Z', last, last \
                   FROM change_feed";
    sqlx::raw_sql(removal).execute(&mut stranger).await.unwrap();
    tables.follow(&mut sink).await;
    tables.assert_follow(&worker.database.path()).await;
    assert_eq!(tables.column(STATES).await, ["did:plc:bob b 3"]);
}

pub(crate) async fn a_process_that_was_replaced_writes_nothing_more(tables: &impl Tables) {
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    let mut former = tables.follower(&worker.store, "sink");
    tables.follow(&mut former).await;
    let mut present = tables.follower(&worker.store, "sink");
    tables.follow(&mut present).await;
    worker.apply(vec![put(ALICE, "a", 2)], 2).await;
    let mut refused = None;
    for _ in 0..100 {
        if let Err(error) = former.step().await {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(SinkError::Superseded));
    assert_eq!(tables.column(STATES).await, ["did:plc:alice a 1"]);
    tables.follow(&mut present).await;
    assert_eq!(tables.column(STATES).await, ["did:plc:alice a 2"]);
}

/// `refuse` has the database refuse the records `r30` and `r31`.
pub(crate) async fn a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on(
    tables: &impl Tables,
    refuse: impl Future<Output = ()>,
) {
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "first", 1)], 1).await;
    let mut sink = tables.follower(&worker.store, "sink");
    tables.follow(&mut sink).await;
    refuse.await;
    let effects = (2..=60).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    worker.apply(effects, 60).await;
    tables.follow(&mut sink).await;
    assert_eq!(tables.column(STATES).await.len(), 58);
    let letters = "SELECT stage || ' ' || source || ' ' || uri || ' ' || attempts FROM dead_letters \
                   ORDER BY uri";
    let letter = |rkey: &str| format!("sink sink:sink at://{ALICE}/{PROFILE}/{rkey} 4");
    assert_eq!(
        worker.database.rows(letters).await,
        [letter("r30"), letter("r31")]
    );
    // The next version of another record is delivered as any other.
    worker.apply(vec![put(ALICE, "r29", 61)], 61).await;
    tables.follow(&mut sink).await;
    let stands = "SELECT record ->> 'n' AS n FROM records WHERE rkey = 'r29'";
    assert_eq!(tables.column(stands).await, ["61"]);
}

/// `age` makes the booking requests in the sink older than they are kept.
pub(crate) async fn hidden_records_are_in_no_view_and_ended_requests_go_by_age(
    tables: &impl Tables,
    age: impl Future<Output = ()>,
) {
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
    tables
        .follow(&mut tables.follower(&worker.store, "sink"))
        .await;
    tables.assert_follow(&worker.database.path()).await;
    assert_eq!(tables.column(VISIBLE).await, ["o"]);
    // A purge of the sink, by its own rule and age.
    age.await;
    tables
        .follow(&mut tables.follower(&worker.store, "sink"))
        .await;
    let requests = "SELECT rkey FROM booking_requests";
    assert_eq!(tables.column(requests).await, ["open"]);
}

/// Two workers with a database each. Holds invariant 10.6.
pub(crate) async fn of_two_workers_the_one_that_is_behind_takes_nothing_back(tables: &impl Tables) {
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
    let mut of_ahead = tables.follower(&ahead.store, "one");
    let mut of_behind = tables.follower(&behind.store, "two");
    ahead.apply(history(7), 7).await;
    tables.follow(&mut of_ahead).await;
    let expected = ["did:plc:alice a 5", "did:plc:alice b 3", "did:plc:bob c -"];
    assert_eq!(tables.column(STATES).await, expected);
    for to in [4, 5, 7] {
        behind.apply(history(to), to).await;
        tables.follow(&mut of_behind).await;
        assert_eq!(tables.column(STATES).await, expected);
        let handles = tables.column("SELECT handle FROM accounts").await;
        assert_eq!(handles, ["new.example"]);
    }
    // The one that was behind goes on alone.
    behind.apply(vec![put(BOB, "c", 8)], 8).await;
    tables.follow(&mut of_behind).await;
    assert_eq!(tables.column(STATES).await[2], "did:plc:bob c 8");
    let positions = "SELECT sink FROM sink_positions ORDER BY sink";
    assert_eq!(tables.column(positions).await, ["one", "two"]);
}

/// Holds invariant 10.6.
pub(crate) async fn the_projection_of_a_record_that_was_refused_stays_that_of_the_row(
    tables: &impl Tables,
) {
    let (ahead, behind) = (Worker::new().await, Worker::new().await);
    let old = offer(ALICE, "o", 1);
    ahead
        .apply(vec![old.clone(), offer(ALICE, "o", 2)], 2)
        .await;
    tables
        .follow(&mut tables.follower(&ahead.store, "one"))
        .await;
    behind.apply(vec![old], 1).await;
    tables
        .follow(&mut tables.follower(&behind.store, "two"))
        .await;
    let titles = "SELECT title FROM offers_index";
    assert_eq!(tables.column(titles).await, ["lesson 2"]);
    tables.assert_follow(&ahead.database.path()).await;
}

/// Holds invariant 10.6.
pub(crate) async fn what_one_worker_has_removed_the_other_does_not_bring_back(
    tables: &impl Tables,
) {
    let (ahead, behind) = (Worker::new().await, Worker::new().await);
    let mut of_ahead = tables.follower(&ahead.store, "one");
    let mut of_behind = tables.follower(&behind.store, "two");
    let records = || vec![put(ALICE, "a", 2), put(ALICE, "b", 3), put(BOB, "c", 4)];
    behind.apply(records(), 4).await;
    tables.follow(&mut of_behind).await;
    ahead.apply(records(), 4).await;
    let removal = || vec![account(ALICE, Some("deleted"), 5)];
    ahead.apply(removal(), 5).await;
    ahead.finish_removals().await;
    tables.follow(&mut of_ahead).await;
    assert_eq!(tables.column(STATES).await, ["did:plc:bob c 4"]);
    // An update from before the deletion, which the one behind has only now.
    behind.apply(vec![put(ALICE, "a", 4)], 4).await;
    tables.follow(&mut of_behind).await;
    assert_eq!(tables.column(STATES).await, ["did:plc:bob c 4"]);
    // The account returns.
    let back = || vec![account(ALICE, None, 6), put(ALICE, "a", 7)];
    behind.apply(removal(), 5).await;
    behind.apply(back(), 7).await;
    behind.finish_removals().await;
    tables.follow(&mut of_behind).await;
    let expected = ["did:plc:alice a 7", "did:plc:bob c 4"];
    assert_eq!(tables.column(STATES).await, expected);
    ahead.apply(back(), 7).await;
    tables.follow(&mut of_ahead).await;
    assert_eq!(tables.column(STATES).await, expected);
}

/// Two workers that read the same events, each at its own pace, in any order of their deliveries. Holds
/// invariant 10.6.
pub(crate) async fn two_workers_of_any_pace_make_the_tables_of_either(
    tables: &impl Tables,
    seed: u64,
) {
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
    let names = ["one", "two"];
    let mut sinks = [0, 1].map(|n| tables.follower(&workers[n].store, names[n]));
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
                tables.follow(sink).await;
            }
            if random.u32(..10) == 0 {
                *sink = tables.follower(&workers[worker].store, names[worker]);
            }
        }
    }
    for (worker, sink) in workers.iter().zip(&mut sinks) {
        worker.finish_removals().await;
        tables.follow(sink).await;
    }
    for query in [
        "SELECT uri || ' ' || rev || ' ' || coalesce(cid, '-') AS row FROM records ORDER BY uri",
        "SELECT uri || ' ' || rev || ' ' || title AS row FROM offers_index ORDER BY uri",
    ] {
        let expected = workers[0].database.rows(query).await;
        assert_eq!(
            workers[1].database.rows(query).await,
            expected,
            "seed {seed}"
        );
        assert_eq!(tables.column(query).await, expected, "seed {seed}");
    }
    let kept = "SELECT did || ' ' || coalesce(handle, '-') || ' ' || active || ' ' \
                || coalesce(status, '-') AS row FROM accounts WHERE change IS NOT NULL ORDER BY did";
    let expected = workers[0].database.rows(kept).await;
    assert_eq!(tables.column(kept).await, expected, "seed {seed}");
}

/// A loss of power took the last change, and the next start gives its number out again. Holds invariant
/// 10.2.
pub(crate) async fn a_row_whose_change_was_lost_is_written_again_at_the_same_rev_and_time(
    tables: &impl Tables,
) {
    let Worker { database, store } = Worker::new().await;
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    let copy = database.backup().await;
    apply(&store, vec![put(ALICE, "a", 2)], 2).await;
    tables.follow(&mut tables.follower(&store, "sink")).await;
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
    tables.follow(&mut tables.follower(&store, "sink")).await;
    let reasons = "SELECT coalesce(invalid_reason, '-') AS reason FROM records";
    assert_eq!(tables.column(reasons).await, ["judged again"]);
}
