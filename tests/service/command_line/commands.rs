//! Commands to a worker that runs, over its control socket. Holds invariants 13.1 to 13.6.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use reqwest::StatusCode;
use serde_json::Value;
use test_support::mock_relay::{recorded_relay, relay_with, unhurried};
use test_support::recorded_frames::frames;
use test_support::tables::stranger_at;
use test_support::waiting::{POLL_INTERVAL, SLOT_TIMEOUT, soon};
use test_support::worker_process::Program;
use tokio::time::{Instant, sleep};

use super::service::{reaches, start, start_with};
use super::{Folder, assert_success, huddle_meanwhile, stderr, stdout};

const LAST: u64 = 306;

/// A worker that has read the whole recording.
struct Service {
    folder: Folder,
    relay: MockRelay,
    worker: Program,
}

impl Service {
    async fn start() -> Self {
        let (folder, relay) = (Folder::new(), recorded_relay().await);
        let worker = start(&relay, &folder).await;
        reaches(&worker, &relay, LAST).await;
        Self {
            folder,
            relay,
            worker,
        }
    }

    async fn run(&self, command: &[&str]) -> std::process::Output {
        let (database, source) = (self.folder.path("huddle.db"), self.relay.url());
        let places = ["--database", &database, "--source-url", &source];
        huddle_meanwhile(&[command, &places].concat()).await
    }

    /// Runs a command that succeeds, and returns its output.
    async fn succeeds(&self, command: &[&str]) -> String {
        let output = self.run(command).await;
        assert_success(&output);
        stdout(&output).to_owned()
    }

    async fn json(&self, command: &[&str]) -> Value {
        serde_json::from_str(&self.succeeds(command).await).unwrap()
    }

    async fn connection(&self) -> String {
        let status = self.worker.status().await;
        let connection = &status["sources"][self.relay.url()]["connection"];
        connection["state"].as_str().unwrap_or("none").to_owned()
    }

    async fn is_soon(&self, state: &str) {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        while self.connection().await != state {
            assert!(Instant::now() < deadline, "never {state}");
            sleep(POLL_INTERVAL).await;
        }
    }
}

#[tokio::test]
async fn the_control_socket_is_beside_the_database_and_only_its_owner_may_use_it() {
    let service = Service::start().await;
    let socket = std::fs::metadata(service.folder.path("huddle.db.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    service
        .succeeds(&["account", "did:plc:ann", "--active"])
        .await;
    let audit = service.json(&["commands", "audit"]).await;
    assert_eq!(audit[0]["action"], "account");
    assert_eq!(audit[0]["target"], "did:plc:ann");
    assert!(audit[0]["actor"].as_str().unwrap().starts_with("uid "));
}

#[tokio::test]
async fn a_cursor_is_moved_under_a_running_worker_which_goes_on_from_there() {
    let service = Service::start().await;
    service.succeeds(&["cursor", "set", "100"]).await;
    reaches(&service.worker, &service.relay, LAST).await;
    let commands = service.json(&["commands", "list"]).await;
    assert_eq!(commands[0]["state"], "done");
    let result = &commands[0]["result"];
    assert_eq!(
        (&result["from"]["seq"], &result["to"]["seq"]),
        (&306.into(), &100.into())
    );
    // It has read again what follows, in the same process, and the event at the cursor itself.
    let status = service.worker.status().await;
    assert_eq!(status["sources"][service.relay.url()]["events"], LAST - 99);

    let connections = service.relay.connections();
    let refused = service.run(&["cursor", "set", "5000"]).await;
    assert_eq!(refused.status.code(), Some(1));
    // Nothing is interrupted for it.
    assert_eq!(service.relay.connections(), connections);
    let error = stderr(&refused);
    assert!(
        error.contains("seq 306 to seq 5000") && error.contains("--accept-gap"),
        "{error}"
    );
    reaches(&service.worker, &service.relay, LAST).await;
}

#[tokio::test]
async fn a_paused_source_is_read_no_more_also_after_a_restart_until_it_is_resumed() {
    let mut service = Service::start().await;
    let paused = service
        .json(&["source", "pause", "--reason", "a test"])
        .await;
    assert_eq!(paused["is_paused"], true);
    service.is_soon("paused").await;
    let (code, body) = service.worker.get("/readyz").await;
    assert_eq!(code, StatusCode::OK, "{body}");
    assert!(body.contains("has been paused since"), "{body}");

    assert!(service.worker.terminate().await.success());
    service.worker = start(&service.relay, &service.folder).await;
    service.is_soon("paused").await;
    service.succeeds(&["source", "resume"]).await;
    service.is_soon("connected").await;
    let reconnects = async |service: &Service| {
        let status = service.worker.status().await;
        status["sources"][service.relay.url()]["reconnects"]
            .as_u64()
            .unwrap_or_default()
    };
    let before = reconnects(&service).await;
    service.succeeds(&["source", "reconnect"]).await;
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while reconnects(&service).await == before {
        assert!(Instant::now() < deadline, "it was not dialled anew");
        sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test]
async fn a_setting_is_changed_under_a_running_worker_and_shown_with_its_origin() {
    let service = Service::start().await;
    let changed = service
        .json(&["config", "set", "collections", "--add", "app.example.*"])
        .await;
    assert_eq!(
        changed["after"],
        serde_json::json!(["com.huddle.*", "app.example.*"])
    );
    assert!(
        changed["notes"][0]
            .as_str()
            .unwrap()
            .contains("backfill start")
    );
    reaches(&service.worker, &service.relay, LAST).await;
    let printed = service.succeeds(&["config", "print"]).await;
    let line = printed
        .lines()
        .find(|line| line.starts_with("collections = "));
    let line = line.unwrap();
    assert!(
        line.contains("\"app.example.*\"] # run time, by uid "),
        "{line}"
    );

    service.succeeds(&["config", "reset", "collections"]).await;
    reaches(&service.worker, &service.relay, LAST).await;
    let printed = service.succeeds(&["config", "print"]).await;
    assert!(
        printed.contains("collections = [\"com.huddle.*\"] # default"),
        "{printed}"
    );

    let refused = service.run(&["config", "set", "validation", "maybe"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("maybe"), "{}", stderr(&refused));
}

#[tokio::test]
async fn a_drain_by_command_ends_the_worker_like_a_signal() {
    let mut service = Service::start().await;
    service.succeeds(&["drain"]).await;
    let ended = soon(service.worker.child.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    // The next one does not drain again.
    service.worker = start(&service.relay, &service.folder).await;
    reaches(&service.worker, &service.relay, LAST).await;
    let commands = service.json(&["commands", "list"]).await;
    assert_eq!(
        (&commands[0]["kind"], &commands[0]["state"]),
        (&"drain".into(), &"done".into())
    );
}

#[tokio::test]
async fn the_filter_of_the_log_is_changed_for_a_time() {
    let service = Service::start().await;
    let changed = service.json(&["log-level", "debug", "--for", "1h"]).await;
    assert_eq!(changed["filter"], "debug");
    for (arguments, told) in [
        (&["log-level", "a=b=c"][..], "a=b=c"),
        (&["log-level", ""], "names no level"),
        (&["log-level", "debug", "--for", "8d"], "691200 s"),
    ] {
        let refused = service.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&refused).contains(told), "{}", stderr(&refused));
    }
}

#[tokio::test]
async fn without_a_worker_a_command_is_carried_out_waits_or_is_refused_as_it_needs_one() {
    let mut service = Service::start().await;
    service.worker.child.kill().await.unwrap();
    service.succeeds(&["cursor", "set", "7"]).await;
    let refused = service.run(&["drain"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("no worker runs on"),
        "{}",
        stderr(&refused)
    );
    let commands = service.json(&["commands", "list"]).await;
    assert_eq!(commands.as_array().unwrap().len(), 1);
    assert_eq!(commands[0]["state"], "done");
}

/// The rows of a query, as another process reads them.
async fn column(service: &Service, query: &'static str) -> Vec<String> {
    let mut stranger = stranger_at(service.folder.path("huddle.db").as_ref()).await;
    sqlx::query_scalar(query)
        .fetch_all(&mut stranger)
        .await
        .unwrap()
}

/// Gives the command that reads a stretch again, which is not waited for, and returns its row at its end.
async fn rerun(service: &Service, arguments: &[&str]) -> Value {
    let _given = service.run(&[&["reprocess"], arguments].concat()).await;
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let commands = service.json(&["commands", "list"]).await;
        let row = &commands[0];
        if row["kind"] == "rerun" && matches!(row["state"].as_str(), Some("done" | "failed")) {
            return row.clone();
        }
        assert!(Instant::now() < deadline, "it never ended: {row}");
        sleep(POLL_INTERVAL).await;
    }
}

const RECORDS: &str = "SELECT uri || ' ' || rev || ' ' || deleted FROM records ORDER BY uri";

#[tokio::test]
async fn records_are_judged_again_beside_the_worker() {
    let service = Service::start().await;
    let refused = "SELECT uri FROM dead_letters WHERE stage = 'validate'";
    let before = column(&service, refused).await.len();
    assert!(before > 0);
    service
        .succeeds(&["config", "set", "validation", "off"])
        .await;
    reaches(&service.worker, &service.relay, LAST).await;
    let told = service
        .succeeds(&["reprocess", "--invalid", "--dry-run"])
        .await;
    assert!(told.starts_with("nothing was written"), "{told}");
    let told = service
        .succeeds(&["reprocess", "--invalid", "--reason", "a test"])
        .await;
    assert!(told.contains("restored from dead letters"), "{told}");
    assert!(column(&service, refused).await.len() < before);
    let commands = service.json(&["commands", "list"]).await;
    assert_eq!(
        (&commands[0]["kind"], &commands[0]["reason"]),
        (&"reprocess".into(), &"a test".into())
    );
    let audit = service.json(&["commands", "audit"]).await;
    assert_eq!(audit[0]["action"], "reprocess");
    assert_eq!(audit[1]["action"], "reprocess_begin");
}

/// Holds invariant 13.10.
#[tokio::test]
async fn a_stretch_is_read_again_beside_the_live_stream_whose_cursor_stays() {
    let service = Service::start().await;
    let before = column(&service, RECORDS).await;
    let mut stranger = stranger_at(service.folder.path("huddle.db").as_ref()).await;
    let lost = "DELETE FROM records WHERE rowid % 2 = 0";
    sqlx::query(lost).execute(&mut stranger).await.unwrap();
    assert!(column(&service, RECORDS).await.len() < before.len());

    let row = rerun(&service, &["--from-cursor", "0"]).await;
    assert_eq!(row["state"], "done", "{row}");
    let result = &row["result"];
    assert_eq!((&result["at"], &result["to"]), (&LAST.into(), &LAST.into()));
    assert!(result["records"].as_u64().unwrap() > 0, "{result}");
    assert_eq!(column(&service, RECORDS).await, before);
    let status = service.worker.status().await;
    let source = &status["sources"][service.relay.url()];
    assert_eq!(source["applied"]["seq"], LAST);
    assert_eq!(source["open_gaps"], 0);
    assert_eq!(
        source["events"], LAST,
        "the live stream has read nothing again"
    );

    let nothing = rerun(&service, &["--from-cursor", "5", "--to", "5"]).await;
    let error = nothing["error"].as_str().unwrap();
    assert!(error.contains("nothing between seq 5 and seq 5"), "{error}");
}

/// Holds invariant 13.10.
#[tokio::test]
async fn a_stretch_that_the_source_does_not_hold_any_more_is_said_with_its_oldest_seq() {
    let options = Options {
        window_start: Some(100),
        ..unhurried()
    };
    let (folder, relay) = (Folder::new(), relay_with(frames(), options).await);
    let worker = start(&relay, &folder).await;
    reaches(&worker, &relay, LAST).await;
    let service = Service {
        folder,
        relay,
        worker,
    };
    let row = rerun(&service, &["--from-cursor", "7"]).await;
    let error = row["error"].as_str().unwrap();
    assert!(
        error.contains("does not hold the events behind seq 7 any more")
            && error.contains("its oldest is seq 100"),
        "{error}"
    );
}

#[tokio::test]
async fn an_index_is_made_and_dropped_beside_the_worker() {
    const FOLLOW: &str = "app.bsky.graph.follow";
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/lexicons");
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let worker = start_with(
        &relay,
        &folder,
        &["--verify", "none", "--lexicons", examples],
    )
    .await;
    reaches(&worker, &relay, LAST).await;
    let service = Service {
        folder,
        relay,
        worker,
    };
    let index = [
        "lexicon",
        "index",
        FOLLOW,
        "createdAt",
        "--lexicons",
        examples,
    ];
    let made = service.succeeds(&index).await;
    assert_eq!(made, "made the index app_bsky_graph_follow__created_at\n");
    let again = service.succeeds(&index).await;
    assert_eq!(again, "there is an index on created_at already\n");
    let dropped = service.succeeds(&[&index[..], &["--drop"]].concat()).await;
    assert_eq!(dropped, "the index on created_at is gone\n");
    let audit = service.json(&["commands", "audit"]).await;
    assert_eq!(
        (&audit[0]["action"], &audit[0]["target"]),
        (&"lexicon_index".into(), &FOLLOW.into())
    );
}

#[tokio::test]
async fn the_reason_of_a_command_is_in_the_audit() {
    let service = Service::start().await;
    for command in [
        &["cursor", "set", "306"][..],
        &["account", "did:plc:ann", "--active"],
    ] {
        let reason = format!("why {}", command[0]);
        service
            .succeeds(&[command, &["--reason", &reason]].concat())
            .await;
        reaches(&service.worker, &service.relay, LAST).await;
        let audit = service.json(&["commands", "audit"]).await;
        assert_eq!(audit[0]["reason"], reason.as_str());
    }
}

/// What `dlq retry` prints whose worker ends by `signal` while it waits.
async fn retry_whose_worker_ends(signal: &str) -> (Service, std::process::Output) {
    let mut service = Service::start().await;
    let path = service.folder.path("huddle.db");
    let retry = ["dlq", "retry", "--all", "--rate", "1", "--database", &path];
    let waiting = huddle_meanwhile(&retry);
    let ending = async {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        let running = "SELECT kind FROM commands WHERE progress ->> '$.done' > 0";
        while column(&service, running).await.is_empty() {
            assert!(Instant::now() < deadline, "it never began");
            sleep(POLL_INTERVAL).await;
        }
        let id = service.worker.child.id().unwrap().to_string();
        let mut kill = tokio::process::Command::new("kill");
        let sent = kill.args([signal, &id]).status().await;
        assert!(sent.unwrap().success());
    };
    let (output, ()) = tokio::join!(waiting, ending);
    let _ended = soon(service.worker.child.wait()).await.unwrap();
    (service, output)
}

#[tokio::test]
async fn a_command_whose_worker_ends_is_told_with_its_number_and_goes_on_with_the_next_run() {
    for signal in ["-TERM", "-KILL"] {
        let (service, output) = retry_whose_worker_ends(signal).await;
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(
            error.contains(
                "error: the worker has ended, and command 1 (dead_letters_retry) is not done; it is kept, \
                 and the next run goes on with it; `commands list` shows how far it is"
            ),
            "{error}"
        );
        let open = "SELECT kind FROM commands WHERE ended_at IS NULL";
        assert_eq!(column(&service, open).await, ["dead_letters_retry"]);
    }
}
