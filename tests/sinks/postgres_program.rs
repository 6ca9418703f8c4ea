//! The program with a Postgres sink, as an operator starts it: killed, and cut off from its database.
//! Holds invariants 10.1, 10.3 and 10.4.

use std::num::NonZeroU32;

use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use reqwest::StatusCode;
use test_support::mock_relay::{relay, relay_with};
use test_support::postgres::{Schema, assert_follows};
use test_support::recorded_frames::frames;
use test_support::tables::Database;
use test_support::waiting::{POLL_INTERVAL, SLOT_TIMEOUT};
use test_support::worker_process::{self, Program};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::truth::assert_is_true;

const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");

fn run(relay: &MockRelay, database: &Database, sink: &str) -> Command {
    let mut command = Command::from(worker_process::command(PATH));
    command
        .args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
        .args(["--batch-frames", "8", "--index-batch", "10"])
        .args(["--source-url", &relay.url()])
        .args(["--database-url", &database.url()])
        .args(["--sink", sink]);
    command
}

/// Runs until the source is silent and the sink has everything. Returns the last line.
async fn run_to_the_end(relay: &MockRelay, database: &Database, sink: &str) -> serde_json::Value {
    let mut command = run(relay, database, sink);
    command.args(["--stop-after-idle", "1"]);
    let mut program = Program::start(command).await;
    let last = program.logs("stopped").await;
    assert!(program.child.wait().await.unwrap().success());
    last
}

async fn assert_equal(relay: &MockRelay, database: &Database, schema: &Schema) {
    assert_is_true(database, relay).await;
    assert_follows(schema, &database.path()).await;
}

/// The rows of records in the sink; 0 while it has no tables.
async fn records(schema: &Schema) -> u64 {
    let exists = schema.column("SELECT coalesce(to_regclass('records')::text, '-')");
    match exists.await[0].as_str() {
        "-" => 0,
        _ => {
            let count = schema.column("SELECT count(*)::text FROM records").await;
            count[0].parse().unwrap()
        }
    }
}

async fn until_records(schema: &Schema, count: u64) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while records(schema).await < count {
        assert!(
            Instant::now() < deadline,
            "the sink never had {count} records"
        );
        sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_in_postgres_are_those_of_the_worker() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (relay, database) = (relay(frames()).await, Database::new());
    let last = run_to_the_end(&relay, &database, &schema.url()).await;
    assert_eq!(last["sinks_behind"], "postgres: 0");
    assert_equal(&relay, &database, &schema).await;
    assert!(records(&schema).await > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_and_a_database_that_ends_its_connections_lose_nothing() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let options = Options {
        rate: NonZeroU32::new(400),
        ..Options::default()
    };
    let (relay, database) = (relay_with(frames(), options).await, Database::new());
    for kill in 1..=6 {
        let mut program = Program::start(run(&relay, &database, &schema.url())).await;
        until_records(&schema, kill * 15).await;
        if kill % 2 == 0 {
            schema.end_sinks().await;
            until_records(&schema, kill * 15 + 5).await;
        }
        program.child.kill().await.unwrap();
    }
    run_to_the_end(&relay, &database, &schema.url()).await;
    assert_equal(&relay, &database, &schema).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_comes_later_gets_everything_that_is_kept() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (relay, database) = (relay(frames()).await, Database::new());
    let nowhere = "nowhere=postgres://postgres@127.0.0.1:9/test";
    let mut program = Program::start(run(&relay, &database, nowhere)).await;
    program.logs("the sink takes nothing").await;
    // A sink that is down holds nothing up, and is no reason to restart the worker.
    let deadline = Instant::now() + SLOT_TIMEOUT;
    let ready = loop {
        let (code, body) = program.get("/readyz").await;
        if body.contains("sink nowhere") && code == StatusCode::OK {
            break body;
        }
        assert!(Instant::now() < deadline, "{body}");
        sleep(POLL_INTERVAL).await;
    };
    assert!(ready.contains("\"is_warning\":true"), "{ready}");
    let status = program.status().await;
    assert_eq!(status["sinks"]["nowhere"]["state"], "backing_off");
    let (_, metrics) = program.get("/metrics").await;
    assert!(metrics.contains("huddle_sink_failing{sink=\"nowhere\"} 1"));
    assert!(program.terminate().await.success());
    run_to_the_end(&relay, &database, &schema.url()).await;
    assert_equal(&relay, &database, &schema).await;
}

/// The database is put back to a copy, as by an operator after a loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_database_is_put_back_to_a_copy_makes_the_sink_equal_again() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let options = Options {
        rate: NonZeroU32::new(400),
        ..Options::default()
    };
    let (relay, database) = (relay_with(frames(), options).await, Database::new());
    let mut program = Program::start(run(&relay, &database, &schema.url())).await;
    until_records(&schema, 30).await;
    let copy = database.backup().await;
    until_records(&schema, 60).await;
    program.child.kill().await.unwrap();
    database.replace_by(&copy);
    run_to_the_end(&relay, &database, &schema.url()).await;
    assert_equal(&relay, &database, &schema).await;
}

/// The sink is put back to a copy, or is empty: its position went back with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_emptied_or_put_back_gets_again_what_it_lacks() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (relay, database) = (relay(frames()).await, Database::new());
    run_to_the_end(&relay, &database, &schema.url()).await;
    let name = &schema.name;
    schema.execute(&format!("DROP SCHEMA {name} CASCADE")).await;
    run_to_the_end(&relay, &database, &schema.url()).await;
    assert_equal(&relay, &database, &schema).await;
    // As a restore of an earlier state would leave it.
    schema
        .execute(
            "DELETE FROM records WHERE change > 50; DELETE FROM offers_index; \
             DELETE FROM bookings; DELETE FROM booking_requests; DELETE FROM accounts; \
             UPDATE sink_positions SET change = 0",
        )
        .await;
    run_to_the_end(&relay, &database, &schema.url()).await;
    assert_equal(&relay, &database, &schema).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_brings_its_tables_to_a_sink_and_says_so() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let database = Database::new();
    let mut demo = Command::from(worker_process::command(PATH));
    demo.args(["demo", "--rate", "5000", "--sink", &schema.url()])
        .args(["--database", &database.path().display().to_string()]);
    let output = demo.output().await.unwrap();
    let (told, errors) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{errors}");
    assert!(told.contains("The sink postgres took"), "{told}");
    assert_follows(&schema, &database.path()).await;
}
