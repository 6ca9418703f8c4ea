//! The tables of a D1 sink, made by the worker or by wrangler.

use serde_json::{Value, json};
use test_support::d1::{D1, assert_follows};

use crate::d1::{database, follow_well, follower};
use crate::effects::*;
use crate::worker::Worker;

const NAME: &str = "0001_huddle_firehose.sql";
const TEXT: &str = include_str!("../../migrations/d1/0001_huddle_firehose.sql");

/// As wrangler makes it.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS \"d1_migrations\" (\n\
     \tid         INTEGER PRIMARY KEY AUTOINCREMENT,\n\
     \tname       TEXT UNIQUE,\n\
     \tapplied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL\n)";

async fn worker() -> Worker {
    let worker = Worker::new().await;
    worker
        .apply(vec![put(ALICE, "a", 1), offer(BOB, "o", 2)], 2)
        .await;
    worker
}

async fn names(d1: &D1) -> Vec<String> {
    d1.column("SELECT name FROM d1_migrations ORDER BY id")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_writes_the_names_that_wrangler_looks_for() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = worker().await;
    follow_well(&mut follower(&d1.url(), &worker.store, "d1")).await;
    assert_eq!(names(&d1).await, [NAME]);
    // As wrangler asks for the columns.
    let columns = "SELECT name FROM pragma_table_info('d1_migrations') ORDER BY cid";
    assert_eq!(d1.column(columns).await, ["id", "name", "applied_at"]);
    let dates = d1.column("SELECT applied_at FROM d1_migrations").await;
    assert_eq!(dates[0].len(), "2026-01-01 00:00:00".len());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_wrangler_has_made_beside_others_are_taken() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = worker().await;
    let note = |name: &str| format!("INSERT INTO \"d1_migrations\" (name) values ('{name}')");
    let mut batch = vec![
        json!({ "sql": TABLE }),
        json!({ "sql": note("0001_of_others.sql") }),
    ];
    batch.extend(
        TEXT.split(";\n")
            .filter(|sql| !sql.trim().is_empty())
            .map(|sql| json!({ "sql": sql })),
    );
    batch.push(json!({ "sql": note(NAME) }));
    let answer = d1.run(Value::Array(batch)).await;
    assert_eq!(answer["success"], true, "{answer}");
    follow_well(&mut follower(&d1.url(), &worker.store, "d1")).await;
    assert_follows(&d1, &worker.database.path()).await;
    assert_eq!(names(&d1).await, ["0001_of_others.sql", NAME]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_are_left_alone() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = worker().await;
    let newer =
        "INSERT INTO d1_migrations (name) VALUES ('9999_huddle_firehose_of_the_future.sql')";
    d1.execute(&[TABLE, newer]).await;
    let refused = follower(&d1.url(), &worker.store, "d1")
        .step()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("newer version"), "{refused}");
    assert_eq!(names(&d1).await.len(), 1);
}
