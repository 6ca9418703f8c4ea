//! `run`: the service, its endpoints and its end. Holds invariant 3.6.

use std::net::TcpListener;
use std::time::Duration;

use huddle_firehose::telemetry::metrics::FAMILIES;
use huddle_firehose::testing::mock_relay::MockRelay;
use reqwest::StatusCode;
use test_support::mock_relay::recorded_relay;
use test_support::skipped::skip;
use test_support::worker_process::Program;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{Folder, PROGRAM, SLOT_TIMEOUT, assert_success, huddle_meanwhile, stderr, stdout};

/// Starts a worker on `relay`.
pub(super) async fn start(relay: &MockRelay, folder: &Folder) -> Program {
    // The PLC directory of the recording no longer exists, so nothing is verified.
    start_with(relay, folder, &["--verify", "none"]).await
}

pub(super) async fn start_with(relay: &MockRelay, folder: &Folder, arguments: &[&str]) -> Program {
    let mut command = Command::new(PROGRAM);
    command
        .args(["run", "--listen", "127.0.0.1:0"])
        .args(["--source-url", &relay.url()])
        .args(arguments)
        .args(["--database-url", &folder.database_url()])
        .env_clear();
    Program::start(command).await
}

/// Waits until everything up to `seq` is durable.
pub(super) async fn reaches(program: &Program, relay: &MockRelay, seq: u64) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let status = program.status().await;
        if status["sources"][relay.url()]["applied"]["seq"] == seq {
            return;
        }
        assert!(Instant::now() < deadline, "never reached {seq}: {status}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_endpoints_show_what_the_worker_has_done() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let service = start(&relay, &folder).await;
    reaches(&service, &relay, 306).await;

    assert_eq!(
        service.get("/healthz").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    let (code, body) = service.get("/readyz").await;
    assert_eq!(code, StatusCode::OK, "{body}");
    assert_eq!(
        service.status().await["sources"][relay.url()]["events"],
        306
    );

    let (code, metrics) = service.get("/metrics").await;
    assert_eq!(code, StatusCode::OK);
    let commits = metrics
        .lines()
        .find(|line| line.starts_with("huddle_events_total{") && line.contains("\"commit\""))
        .unwrap();
    assert!(commits.ends_with(" 228"), "{commits}");
    let missing: Vec<_> = FAMILIES
        .iter()
        .map(|family| family.name)
        .filter(|name| !metrics.contains(&format!("# TYPE {name} ")))
        .collect();
    // Metrics with a label have no series before the first event of their kind; nothing is verified
    // here, and there are no sinks and no queue.
    let unheard_of = [
        "huddle_backfill_repos",
        "huddle_consumed_total",
        "huddle_consumer_dead_letters_total",
        "huddle_consumer_errors_total",
        "huddle_consumer_failing_partitions",
        "huddle_consumer_members",
        "huddle_consumer_partitions",
        "huddle_oldest_parked_seconds",
        "huddle_parked_commits",
        "huddle_rejected_connections_total",
        "huddle_repos",
        "huddle_resynced_records_total",
        "huddle_resyncs_total",
        "huddle_seq_anomalies_total",
        "huddle_sink_behind",
        "huddle_sink_delivered_total",
        "huddle_sink_errors_total",
        "huddle_sink_failing",
        "huddle_sink_lag_seconds",
        "huddle_sink_last_success_timestamp_seconds",
        "huddle_sink_position",
        "huddle_tracked_repos",
        "huddle_verify_errors_total",
    ];
    assert_eq!(missing, unheard_of);
}

#[tokio::test]
async fn a_stopped_worker_applies_what_it_has_read_and_exits_with_zero() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let mut service = start(&relay, &folder).await;
    service.logs("connected").await;
    let ended = service.terminate().await;
    assert_eq!(ended.code(), Some(0));
    let last = service.logs("stopped").await;
    assert_eq!(
        last["message"],
        "stopped; everything that was read is applied"
    );

    // The next worker reads what this one has not read.
    let service = start(&relay, &folder).await;
    reaches(&service, &relay, 306).await;
}

#[tokio::test]
async fn a_stopped_worker_says_what_waits() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    // Nothing listens at this port, so no key is known.
    let no_directory = ["--plc-url", "http://127.0.0.1:1"];
    let mut service = start_with(&relay, &folder, &no_directory).await;
    reaches(&service, &relay, 306).await;
    assert_eq!(service.terminate().await.code(), Some(0));
    let last = service.logs("stopped").await;
    assert!(last["parked_commits"].as_u64() > Some(0), "{last}");
    let message = last["message"].as_str().unwrap();
    assert!(message.contains("some of it waits"), "{message}");
}

/// `nohup` starts programs in this way, and the worker leaves it so.
fn ignores_hang_ups() -> bool {
    const BIT_OF_SIGHUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & BIT_OF_SIGHUP != 0)
}

#[tokio::test]
async fn a_hang_up_drains_as_a_termination_does() {
    if ignores_hang_ups() {
        return skip("this process was started so that it ignores SIGHUP");
    }
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let mut service = start(&relay, &folder).await;
    service.logs("connected").await;
    let id = service.child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-HUP", &id]).status().await;
    assert!(sent.unwrap().success());
    let draining = service.logs("draining").await;
    assert_eq!(draining["reason"], "SIGHUP");
    assert_eq!(service.child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn the_failure_that_ends_a_run_is_in_the_format_of_the_log() {
    let folder = Folder::new();
    let in_no_folder = folder.path("none/huddle.db");
    for (setting, code) in [
        (["--database", &*in_no_folder], 1),
        (["--batch-frames", "0"], 2),
    ] {
        let arguments = ["run", "--log-format", "json", "--listen", "127.0.0.1:0"];
        let output = huddle_meanwhile(&[&arguments[..], &setting].concat()).await;
        assert_eq!(output.status.code(), Some(code));
        let last = stderr(&output).lines().last().unwrap();
        let line: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!(line["level"], "ERROR", "{last}");
        let error = line["error"].as_str().unwrap();
        assert!(error.contains(setting[1].trim_end_matches('0')), "{error}");
    }
}

#[tokio::test]
async fn a_worker_ends_by_itself_when_the_source_is_silent() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let (url, database) = (relay.url(), folder.database_url());
    let arguments = [
        "run",
        "--stop-after-idle",
        "1",
        "--listen",
        "127.0.0.1:0",
        "--verify",
        "none",
    ];
    let places = ["--source-url", &url, "--database-url", &database];
    assert_success(&huddle_meanwhile(&[&arguments[..], &places].concat()).await);

    let output = huddle_meanwhile(&["cursor", "show", "--database-url", &database]).await;
    assert!(stdout(&output).starts_with(&format!("{url}\tseq 306\t")));
}

#[tokio::test]
async fn a_port_in_use_is_reported_at_once() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, database) = (
        taken.local_addr().unwrap().to_string(),
        folder.database_url(),
    );
    let arguments = ["run", "--listen", &address, "--database-url", &database];
    let output = huddle_meanwhile(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains(&format!("error: listen: cannot listen on {address}")),
        "{error}"
    );
    assert!(!std::path::Path::new(&folder.path("huddle.db")).exists());
}
