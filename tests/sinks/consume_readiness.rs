//! What fails beside the tasks of `consume`: its operator sees it. Holds invariant 10.9.

use std::sync::Arc;

use huddle_firehose::sink::target::TableTarget;
use reqwest::StatusCode;
use test_support::nats::Queue;
use test_support::postgres::{Schema, assert_consumed};
use test_support::tables::Database;
use test_support::worker_process::Program;

use crate::consume_postgres::target;
use crate::consuming::*;
use crate::effects::*;

/// A text of `/status`, below `consumption`.
async fn text(program: &Program, name: &str) -> String {
    let status = program.status().await;
    let value = &status["consumption"][name];
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_cannot_be_counted_is_not_ready_and_takes_its_partitions_when_it_is() {
    let (Some(queue), Some(schema)) = (Queue::new().await, Schema::new().await) else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    queue.refuse_members().await;
    let mut program = Program::start(consume(&queue.url(), &schema.url())).await;
    let line = program.logs("this process cannot be counted").await;
    let cause = "cannot say that this consumer is there";
    assert!(line["error"].as_str().unwrap().starts_with(cause), "{line}");
    until("it says why it is not ready", async || {
        let body = program.answers(StatusCode::SERVICE_UNAVAILABLE).await;
        body.contains("has not been counted") && body.contains(cause)
    })
    .await;
    assert!(text(&program, "last_error").await.starts_with(cause));
    assert!(number(&program, "errors").await > 0);
    assert_eq!(queue.count().await, 1);

    queue.admit_members().await;
    until_empty(&queue).await;
    assert_consumed(&schema, &database.path()).await;
    program.logs("this process is counted").await;
    let body = program.answers(StatusCode::OK).await;
    assert!(!body.contains("counted"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_that_fails_is_a_warning_and_tasks_are_applied() {
    let (Some(queue), Some(schema)) = (Queue::new().await, Schema::new().await) else {
        return;
    };
    target(&schema).do_upkeep().await.unwrap();
    schema
        .execute("ALTER TABLE account_removals RENAME TO elsewhere")
        .await;
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    let mut program = Program::start(consume(&queue.url(), &schema.url())).await;
    let line = program.logs("the upkeep of the tables fails").await;
    let cause = "account_removals";
    assert!(line["error"].as_str().unwrap().contains(cause), "{line}");
    until_empty(&queue).await;
    let body = program.answers(StatusCode::OK).await;
    assert!(body.contains("the upkeep of the tables fails"), "{body}");
    assert!(text(&program, "last_error").await.contains(cause));

    schema
        .execute("ALTER TABLE elsewhere RENAME TO account_removals")
        .await;
    program.logs("the upkeep of the tables succeeds").await;
    let body = program.answers(StatusCode::OK).await;
    assert!(!body.contains("upkeep"), "{body}");
    assert_consumed(&schema, &database.path()).await;
}
