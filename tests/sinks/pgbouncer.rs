//! Postgres behind pgbouncer in transaction mode, whose two connections all processes share. Holds
//! invariants 10.3 and 10.9.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::testing::mock_relay::MockRelay;
use sqlx::{Connection, Executor, Row};
use test_support::nats::Queue;
use test_support::postgres::{Bouncer, POOL_SIZE, Schema, assert_consumed, assert_follows};
use test_support::tables::Database;
use test_support::worker_process::Program;
use tokio::time::sleep;

use crate::consuming::*;
use crate::effects::*;
use crate::postgres::{follow, follower_at};
use crate::truth::assert_is_true;
use crate::worker::Worker;

/// What a transaction of a sink sets for itself, as another program finds it.
const SETTINGS: &str = "SELECT concat_ws(' ', current_setting('search_path'), \
     current_setting('statement_timeout'), current_setting('lock_timeout'), \
     current_setting('idle_in_transaction_session_timeout')), pg_backend_pid()";

/// Two schemas of one server, and a pgbouncer before it.
async fn parts() -> Option<([Schema; 2], Bouncer)> {
    let schemas = [Schema::new().await?, Schema::new().await?];
    let bouncer = Bouncer::before(&schemas[0]).await?;
    Some((schemas, bouncer))
}

/// The connections of pgbouncer whose last transaction was one of the sink in `schema`.
async fn connections(schema: &Schema) -> Vec<String> {
    let name = &schema.name;
    let query = format!("SELECT pid::text FROM pg_stat_activity WHERE application_name = '{name}'");
    schema.column(&query).await
}

/// A transaction of another program makes the pool open its second connection.
async fn open_all(bouncer: &Bouncer) {
    let mut others = Vec::new();
    for _ in 0..POOL_SIZE {
        let mut other = bouncer.connect().await;
        other.execute(sqlx::raw_sql("BEGIN")).await.unwrap();
        others.push(other);
    }
    for mut other in others {
        other.execute(sqlx::raw_sql("COMMIT")).await.unwrap();
        other.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transaction_of_a_sink_may_have_another_connection_and_leaves_no_setting_in_it() {
    let Some((schemas, bouncer)) = parts().await else {
        return;
    };
    let mut other = bouncer.connect().await;
    let untouched: String = other.fetch_one(SETTINGS).await.unwrap().get(0);
    open_all(&bouncer).await;
    let workers = [Worker::new().await, Worker::new().await];
    let mut sinks = [0, 1].map(|index| {
        let url = schemas[index].url_at(&bouncer.url());
        follower_at(&url, &workers[index].store, "postgres")
    });
    let mut used = [BTreeSet::new(), BTreeSet::new()];
    for round in 1..=12 {
        for (index, sink) in sinks.iter_mut().enumerate() {
            let n = round * 10;
            let effects = vec![
                put(ALICE, &format!("r{round}"), n),
                offer(ALICE, "o", n + 1),
                request(BOB, "q", n + 2, "requested"),
                account(BOB, (round % 4 == 0).then_some("deleted"), n + 3),
            ];
            apply(&workers[index].store, effects, n + 3).await;
            follow(sink).await;
            used[index].extend(connections(&schemas[index]).await);
        }
    }
    for (index, schema) in schemas.iter().enumerate() {
        assert_follows(schema, &workers[index].database.path()).await;
        assert_eq!(used[index].len(), POOL_SIZE, "{used:?}");
    }
    let mut seen = BTreeSet::new();
    for _ in 0..2 * POOL_SIZE {
        let row = other.fetch_one(SETTINGS).await.unwrap();
        assert_eq!(row.get::<String, _>(0), untouched);
        seen.insert(row.get::<i32, _>(1));
    }
    assert_eq!(seen.len(), POOL_SIZE);
}

async fn run_to_the_end(relay: &MockRelay, database: &Database, sink: &str) {
    let mut command = produce(relay, database, sink);
    command.args(["--stop-after-idle", "1"]);
    let mut program = Program::start(command).await;
    let last = program.logs("stopped").await;
    assert_eq!(last["sinks_behind"], "postgres: 0");
    assert!(program.child.wait().await.unwrap().success());
}

/// Two programs with a schema each. pgbouncer is killed while they deliver, and so is one of them.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_share_a_pool_lose_nothing_when_it_is_killed_amid_their_deliveries() {
    let Some((schemas, mut bouncer)) = parts().await else {
        return;
    };
    let databases = [Database::new(), Database::new()];
    let relays = [slow_relay(300).await, slow_relay(300).await];
    let sinks = [0, 1].map(|index: usize| schemas[index].url_at(&bouncer.url()));
    let start = async |index: usize| {
        Program::start(produce(&relays[index], &databases[index], &sinks[index])).await
    };
    let mut programs = [start(0).await, start(1).await];
    for round in 1..=4 {
        until("both sinks have more records", async || {
            records(&schemas[0]).await >= round * 15 && records(&schemas[1]).await >= round * 15
        })
        .await;
        bouncer.kill();
        if round % 2 == 0 {
            programs[0].child.kill().await.unwrap();
            programs[0] = start(0).await;
        }
        sleep(Duration::from_millis(100)).await;
        bouncer.start_again().await;
    }
    drop(programs);
    for index in 0..2 {
        run_to_the_end(&relays[index], &databases[index], &sinks[index]).await;
        assert_is_true(&databases[index], &relays[index]).await;
        assert_follows(&schemas[index], &databases[index].path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_consumers_apply_through_a_pool_that_is_killed_is_what_the_worker_has() {
    let Some(queue) = Queue::new().await else {
        return;
    };
    let Some(([schema, _], mut bouncer)) = parts().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let into = schema.url_at(&bouncer.url());
    let consumers = [
        Program::start(consume(&queue.url(), &into)).await,
        Program::start(consume(&queue.url(), &into)).await,
    ];
    for round in 0..4 {
        let first = 1 + round * 100;
        let effects = (first..first + 60).map(|n| put(&format!("did:plc:{}", n % 13), "r", n));
        apply(&store, effects.collect(), first + 60).await;
        deliver(&store, &queue).await;
        bouncer.kill();
        sleep(Duration::from_millis(50)).await;
        bouncer.start_again().await;
    }
    until_empty(&queue).await;
    assert_consumed(&schema, &database.path()).await;
    for consumer in &consumers {
        assert!(number(consumer, "applied").await > 0);
    }
}
