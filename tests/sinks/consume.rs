//! `consume` by itself: what it applies, sets aside and waits for. Holds invariants 10.8 and 10.9.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use reqwest::StatusCode;
use serde_json::json;
use test_support::nats::{OwnServer, Queue};
use test_support::postgres::{Schema, assert_consumed};
use test_support::tables::Database;
use test_support::worker_process::{self, Program, terminate};
use tokio::process::Command;

use crate::consuming::*;
use crate::effects::*;

/// A queue and a schema; `None` if a server is missing.
async fn ends() -> Option<(Queue, Schema)> {
    Some((Queue::new().await?, Schema::new().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_that_are_consumed_are_those_of_the_worker() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    // The consumer waits for the stream.
    let program = Program::start(consume(&queue.url(), &schema.url())).await;
    until("it says that there is no stream", async || {
        let body = program.answers(StatusCode::SERVICE_UNAVAILABLE).await;
        body.contains("there is no stream")
    })
    .await;
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
    until_empty(&queue).await;
    assert_consumed(&schema, &database.path()).await;
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
    until("the rows of the removed account are deleted", async || {
        let rows = format!("SELECT uri FROM records WHERE did = '{BOB}'");
        schema.column(&rows).await.is_empty()
    })
    .await;
    assert_consumed(&schema, &database.path()).await;
    program.answers(StatusCode::OK).await;
    // A partition that has found no stream is tried again a moment later than the others.
    until(
        "the metrics tell of four partitions and no dead letter",
        async || {
            let (_, metrics) = program.get("/metrics").await;
            let mut lines = [
                "huddle_consumer_members 1",
                "huddle_consumer_partitions 4",
                "huddle_consumer_dead_letters_total 0",
            ]
            .into_iter();
            lines.all(|line| metrics.contains(line))
        },
    )
    .await;
    until("it tells of the tasks", async || {
        number(&program, "applied").await >= 9
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_read_from_its_bucket_and_deleted_behind_the_ack() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let large = json!({ "$type": PROFILE, "text": "x".repeat(1_100_000) });
    let effects = (1..=3).map(|n| record(ALICE, PROFILE, &format!("l{n}"), n, &large));
    apply(&store, effects.collect(), 3).await;
    deliver(&store, &queue).await;
    assert_eq!(queue.bodies().await, 3);
    let _program = Program::start(consume(&queue.url(), &schema.url())).await;
    until_empty(&queue).await;
    assert_consumed(&schema, &database.path()).await;
    until("the bodies are deleted", async || queue.bodies().await == 0).await;
}

/// A task of one record, as a stranger may have put it.
fn task() -> String {
    let task = json!({
        "type": "upsert", "collection": PROFILE, "did": ALICE, "rkey": "claimed",
        "uri": format!("at://{ALICE}/{PROFILE}/claimed"), "record": {}, "cid": "bafy",
        "timestamp": "2026-01-01T00:00:00.000Z", "rev": "3k22222222222", "seq": 9,
        "source": "wss://relay", "feed": "f", "epoch": "e", "change": 9, "verified": "none",
        "first_indexed_at": "2026-01-01T00:00:00.000Z",
        "last_indexed_at": "2026-01-01T00:00:00.000Z",
    });
    task.to_string()
}

/// What the bucket says of a body is no limit of what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_has_not_the_bytes_that_it_should_is_a_dead_letter() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    let task = task();
    for (name, announced) in [("more", task.len() - 1), ("less", task.len() + 1)] {
        queue.announce_body(name, announced).await;
        queue.put_body(name, task.clone()).await;
        queue.publish_claim(1, name).await;
    }
    let _program = Program::start(consume(&queue.url(), &schema.url())).await;
    until_empty(&queue).await;
    let letters = queue.dead_letters().await;
    assert_eq!(letters.len(), 2);
    for letter in letters {
        let error = &letter.headers["Huddle-Error"];
        assert!(error.contains("bytes that it should"), "{error}");
    }
    assert_eq!(records(&schema).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_body_is_read_its_partition_stays_with_its_consumer() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    let task = task();
    queue.announce_body("late", task.len()).await;
    queue.publish_claim(1, "late").await;
    let program = Program::start(consume(&queue.url(), &schema.url())).await;
    // A lease that is not renewed for three of its intervals is another consumer's.
    let mut revisions = BTreeSet::new();
    until("the lease was renewed", async || {
        revisions.insert(queue.lease_revision(1).await);
        revisions.len() > 6
    })
    .await;
    assert_eq!(number(&program, "errors").await, 0);
    queue.put_body("late", task).await;
    until_empty(&queue).await;
    assert_eq!(records(&schema).await, 2);
    assert_eq!(number(&program, "errors").await, 0);
}

/// The partitions of another consumer are looked at again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_for_partitions_does_not_look_up_their_bucket_again() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    let mut programs = Vec::new();
    for _ in 0..2 {
        programs.push(Program::start(consume(&queue.url(), &schema.url())).await);
    }
    until("the partitions are shared", async || {
        let mut held = Vec::new();
        for program in &programs {
            let status = program.status().await;
            held.push(status["consumption"]["held"].as_array().map(Vec::len));
        }
        held == [Some(2), Some(2)]
    })
    .await;
    let [mut of_bucket, mut of_lease] = queue.watch_leases().await;
    for _ in 0..20 {
        of_lease.next().await.unwrap();
    }
    assert!(of_bucket.next().now_or_never().is_none());
    // One that looks it up is seen.
    queue.lease_revision(1).await;
    of_bucket.next().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_refuses_is_a_dead_letter_after_three_retries_and_the_others_go_on() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = (1..=150).map(|n| put(ALICE, &format!("r{n}"), n));
    apply(&store, effects.collect(), 150).await;
    let program = Program::start(consume(&queue.url(), &schema.url())).await;
    until_tables(&schema).await;
    schema
        .execute("ALTER TABLE records ADD CONSTRAINT not_this_one CHECK (rkey <> 'r77')")
        .await;
    deliver(&store, &queue).await;
    queue.publish(2, "{\"type\":\"upsert\"}").await;
    until_empty(&queue).await;
    let mut letters = queue.dead_letters().await;
    letters.sort_by_key(|letter| letter.headers["Huddle-Attempts"].clone());
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].headers["Huddle-Attempts"], "0");
    assert!(letters[0].headers["Huddle-Error"].starts_with("it is no index task"));
    assert!(letters[0].subject.ends_with("-dlq.2"));
    assert_eq!(letters[1].headers["Huddle-Attempts"], "4");
    assert!(letters[1].headers["Huddle-Error"].contains("not_this_one"));
    assert_eq!(letters[1].body["rkey"], "r77");
    assert_eq!(records(&schema).await, 149);
    until("it tells of both", async || {
        number(&program, "dead_letters").await == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_for_its_server_begins_when_it_comes() {
    let Some(mut server) = OwnServer::start().await else {
        return Queue::missing().unwrap_or_default();
    };
    let Some(schema) = Schema::new().await else {
        return;
    };
    let queue = Queue::at(&server.url());
    server.kill();
    let program = Program::start(consume(&queue.url(), &schema.url())).await;
    until("it says that it cannot connect", async || {
        let body = program.answers(StatusCode::SERVICE_UNAVAILABLE).await;
        body.contains("cannot connect")
    })
    .await;
    server.start_again().await;
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    until_empty(&queue).await;
    assert_consumed(&schema, &database.path()).await;
    // And when it comes back.
    server.kill();
    server.start_again().await;
    apply(&store, vec![put(ALICE, "b", 2)], 2).await;
    deliver(&store, &queue).await;
    until("the record is there", async || records(&schema).await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_listen_nothing_listens_and_no_file_is_made() {
    let Some((queue, schema)) = ends().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::from(worker_process::command(PATH));
    command
        .args(["consume", "--from", &queue.url(), "--into", &schema.url()])
        .args(["--log-format", "json"])
        .current_dir(folder.path())
        .kill_on_drop(true)
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until_tables(&schema).await;
    terminate(&child).await;
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let log = String::from_utf8(output.stderr).unwrap();
    let starting = log.lines().next().unwrap();
    assert!(
        starting.contains("starting") && !starting.contains("listen"),
        "{starting}"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_names_no_queue_or_no_tables_is_bad_usage_and_shows_no_secret() {
    for (from, into) in [
        ("postgres://ann:secret@db/x", "postgres://db/x"),
        ("nats://a.example", "nats://ann:secret@b.example"),
        (
            "nats://ann:secret@a.example?secret=secret",
            "postgres://db/x",
        ),
    ] {
        let output = consume(from, into).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("flag --"), "{text}");
        assert!(!text.contains("secret@"), "{text}");
    }
}
