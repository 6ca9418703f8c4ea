//! The program with a D1 sink, as an operator starts it: killed, and with a service that restarts. Holds
//! invariants 10.1, 10.3 and 10.4.

use std::num::NonZeroU32;

use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use test_support::d1::{D1, assert_follows};
use test_support::mock_relay::{relay, relay_with};
use test_support::recorded_frames::frames;
use test_support::tables::Database;
use test_support::waiting::SLOT_TIMEOUT;
use test_support::worker_process::{self, Program};
use tokio::process::Command;
use tokio::time::{Duration, Instant, sleep};

use crate::d1::database;
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

/// Waits until the sink has `count` records.
async fn until_records(d1: &D1, count: u64) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let tables = "SELECT name FROM sqlite_master WHERE name = 'records'";
        if !d1.column(tables).await.is_empty() {
            let found = d1.column("SELECT count(*) AS n FROM records").await;
            if found[0].parse::<u64>().unwrap() >= count {
                return;
            }
        }
        assert!(
            Instant::now() < deadline,
            "the sink never had {count} records"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_in_d1_are_those_of_the_worker() {
    let Some(d1) = database().await else {
        return;
    };
    let (relay, database) = (relay(frames()).await, Database::new());
    let last = run_to_the_end(&relay, &database, &d1.url()).await;
    assert_eq!(last["sinks_behind"], "d1: 0");
    assert_is_true(&database, &relay).await;
    assert_follows(&d1, &database.path()).await;
    let records = d1.column("SELECT count(*) AS n FROM records").await;
    assert!(records[0].parse::<u64>().unwrap() > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_and_a_service_that_restarts_lose_nothing() {
    let Some(d1) = database().await else {
        return;
    };
    let options = Options {
        rate: NonZeroU32::new(400),
        ..Options::default()
    };
    let (relay, database) = (relay_with(frames(), options).await, Database::new());
    for kill in 1..=4 {
        let mut program = Program::start(run(&relay, &database, &d1.url())).await;
        until_records(&d1, kill * 20).await;
        if kill % 2 == 0 {
            d1.restart().await;
            until_records(&d1, kill * 20 + 5).await;
        }
        program.child.kill().await.unwrap();
    }
    run_to_the_end(&relay, &database, &d1.url()).await;
    assert_is_true(&database, &relay).await;
    assert_follows(&d1, &database.path()).await;
}
