//! What an operator asks of a sink, by the program's own commands. Holds invariant 10.8.

use huddle_firehose::testing::mock_relay::MockRelay;
use reqwest::StatusCode;
use serde_json::Value;
use test_support::mock_relay::relay;
use test_support::postgres::{Schema, assert_follows};
use test_support::recorded_frames::{frames, last_seq};
use test_support::tables::Database;
use test_support::waiting::{POLL_INTERVAL, SLOT_TIMEOUT};
use test_support::worker_process::{self, Program};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");

/// A worker with one sink.
struct Service {
    relay: MockRelay,
    database: Database,
    schema: Schema,
}

impl Service {
    /// `None` where there is no Postgres.
    async fn new() -> Option<Self> {
        Some(Self {
            schema: Schema::new().await?,
            relay: relay(frames()).await,
            database: Database::new(),
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::from(worker_process::command(PATH));
        command
            .args(name.split(' '))
            .args(["--source-url", &self.relay.url()])
            .args(["--database-url", &self.database.url()])
            .args(["--sink", &self.schema.url()]);
        command
    }

    fn run(&self) -> Command {
        let mut command = self.command("run");
        command.args(["--listen", "127.0.0.1:0", "--verify", "none"]);
        command
    }

    /// Runs a command beside the worker, and returns what it prints.
    async fn succeeds(&self, command: &str) -> String {
        let output = self.command(command).output().await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{command}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Gives a command that fails, and returns why. It may fail while its giver looks, or later.
    async fn fails(&self, command: &str) -> String {
        let _told = self.command(command).output().await.unwrap();
        let row = self.ended().await;
        assert_eq!(row["state"], "failed", "{row}");
        row["error"].as_str().unwrap().to_owned()
    }

    async fn is_refused(&self, command: &str, reason: &str) {
        let output = self.command(command).output().await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(errors.contains(reason), "{errors}");
    }

    /// Waits until the last command that was given has ended, and returns its row.
    async fn ended(&self) -> Value {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        loop {
            let commands: Value =
                serde_json::from_str(&self.succeeds("commands list").await).unwrap();
            if !commands[0]["ended_at"].is_null() {
                return commands[0].clone();
            }
            assert!(Instant::now() < deadline, "{commands}");
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn follows(&self) {
        assert_follows(&self.schema, &self.database.path()).await;
    }
}

async fn until(program: &Program, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let status = program.status().await;
        let sink = &status["sinks"]["postgres"];
        if is_so(sink) {
            return sink.clone();
        }
        assert!(Instant::now() < deadline, "{sink}");
        sleep(POLL_INTERVAL).await;
    }
}

fn has_everything(sink: &Value) -> bool {
    sink["state"] == "following" && sink["behind"] == 0 && sink["position"].as_u64() > Some(0)
}

async fn has_read_everything(program: &Program, relay: &MockRelay) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let status = program.status().await;
        let source = &status["sources"][relay.url()];
        if source["applied"]["seq"] == last_seq(&frames()) {
            return;
        }
        assert!(Instant::now() < deadline, "{source}");
        sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_changed_by_hand_is_made_equal_again_by_a_resync_and_by_a_rewind() {
    let Some(service) = Service::new().await else {
        return;
    };
    let program = Program::start(service.run()).await;
    has_read_everything(&program, &service.relay).await;
    until(&program, has_everything).await;
    service.follows().await;

    let schema = &service.schema;
    schema
        .execute("UPDATE records SET validity = 'by hand', record = '{}' WHERE deleted = 0; DELETE FROM offers_index; DELETE FROM bookings; DELETE FROM booking_requests")
        .await;
    service
        .succeeds("sink resync postgres --reason repair")
        .await;
    let row = service.ended().await;
    assert_eq!(
        (&row["state"], &row["reason"]),
        (&"done".into(), &"repair".into())
    );
    assert!(row["result"]["from"].as_u64() > Some(100), "{row}");
    until(&program, has_everything).await;
    service.follows().await;

    // Nothing was marked a minute ago, so all of it comes again.
    schema.execute("DELETE FROM records").await;
    service.succeeds("sink rewind postgres --by 1h").await;
    assert_eq!(service.ended().await["result"]["to"], 0);
    until(&program, has_everything).await;
    service.follows().await;

    let error = service.fails("sink rewind postgres --to 100000").await;
    assert!(error.contains("nothing to deliver again"), "{error}");
    service
        .is_refused("sink pause other", "no sink \"other\" is configured")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sink_gets_nothing_also_after_a_restart_and_is_no_work_to_wait_for() {
    let Some(service) = Service::new().await else {
        return;
    };
    // Without a worker.
    service.succeeds("migrate").await;
    service.succeeds("sink pause postgres").await;
    let mut program = Program::start(service.run()).await;
    has_read_everything(&program, &service.relay).await;
    let sink = until(&program, |sink| sink["state"] == "paused").await;
    assert_eq!(sink["delivered"], 0);
    let (code, body) = program.get("/readyz").await;
    assert_eq!(code, StatusCode::OK);
    assert!(body.contains("has been paused since"), "{body}");
    assert!(program.terminate().await.success());

    let mut idle = service.run();
    idle.args(["--stop-after-idle", "1"]);
    let mut program = Program::start(idle).await;
    program.logs("stopped").await;
    assert!(program.child.wait().await.unwrap().success());
    let tables = "SELECT coalesce(to_regclass('records')::text, '-')";
    assert_eq!(service.schema.column(tables).await, ["-"]);

    let program = Program::start(service.run()).await;
    service.succeeds("sink resume postgres").await;
    until(&program, has_everything).await;
    service.follows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_sink_gets_nothing_until_a_resync_brings_it_back_with_everything() {
    let Some(service) = Service::new().await else {
        return;
    };
    let program = Program::start(service.run()).await;
    has_read_everything(&program, &service.relay).await;
    until(&program, has_everything).await;
    service.succeeds("sink remove postgres").await;
    until(&program, |sink| sink["state"] == "removed").await;
    let (code, body) = program.get("/readyz").await;
    assert_eq!(code, StatusCode::OK);
    assert!(!body.contains("sink postgres"), "{body}");
    service.schema.execute("DELETE FROM records").await;
    let error = service.fails("sink rewind postgres --to 1").await;
    assert!(error.contains("was removed"), "{error}");

    service.succeeds("sink resync postgres").await;
    assert_eq!(service.ended().await["state"], "done");
    until(&program, has_everything).await;
    service.follows().await;
}
