//! A rewind that waits for a delivery on its way: it holds up no other command, and can be cancelled.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::routing::post;
use axum::{Json, Router};
use huddle_firehose::command::{Command, FeedPlace};
use huddle_firehose::model::{CommandState, SourceId};
use huddle_firehose::store::sqlite::{Access, Options, SqliteStore};
use serde_json::Value;
use test_support::commands::{new_command, new_row};
use test_support::mock_relay::relay;
use test_support::recorded_frames::frames;
use test_support::tables::Database;
use test_support::waiting::{POLL_INTERVAL, SLOT_TIMEOUT};
use test_support::worker_process::{self, Program};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");

/// A webhook that answers as soon as it is open.
struct Hook {
    url: String,
    is_open: watch::Sender<bool>,
    requests: watch::Receiver<u32>,
    changes: Arc<Mutex<Vec<u64>>>,
}

impl Hook {
    async fn new() -> Self {
        let (is_open, opened) = watch::channel(false);
        let (counted, requests) = watch::channel(0);
        let changes: Arc<Mutex<Vec<u64>>> = Arc::default();
        let taken = changes.clone();
        let handler = move |body: Bytes| {
            let (mut opened, taken) = (opened.clone(), taken.clone());
            counted.send_modify(|count| *count += 1);
            async move {
                let _is_open = opened.wait_for(|is_open| *is_open).await.unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                let tasks = body["tasks"].as_array().unwrap();
                let changes = tasks.iter().map(|task| task["change"].as_u64().unwrap());
                taken.lock().unwrap().extend(changes);
                Json(())
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("webhook+http://{}/", listener.local_addr().unwrap());
        let router = Router::new().route("/", post(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            is_open,
            requests,
            changes,
        }
    }
}

async fn submit(store: &SqliteStore, command: Command) -> i64 {
    new_row(store.submit_command(&new_command(command)).await.unwrap()).id
}

async fn until(store: &SqliteStore, command: i64, state: CommandState, waits: bool) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let row = store.command(command).await.unwrap().unwrap();
        if row.state == state && (!waits || row.progress.is_some()) {
            return;
        }
        assert!(Instant::now() < deadline, "{row:?}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Holds invariant 10.8.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_that_waits_holds_up_no_command_and_is_not_done_after_it_was_cancelled() {
    let (relay, database, mut hook) = (relay(frames()).await, Database::new(), Hook::new().await);
    let mut command = tokio::process::Command::from(worker_process::command(PATH));
    command
        .args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
        .args(["--source-url", &relay.url()])
        .args(["--database-url", &database.url()])
        .args(["--sink", &hook.url]);
    let program = Program::start(command).await;
    hook.requests
        .wait_for(|requests| *requests > 0)
        .await
        .unwrap();
    let options = Options {
        access: Access::Write,
        ..Options::default()
    };
    let store = SqliteStore::open_with(&database.url(), options).await;
    let store = store.unwrap();

    let sink = "webhook".to_owned();
    let to = FeedPlace::Change(0);
    let rewind = submit(&store, Command::SinkRewind { sink, to }).await;
    until(&store, rewind, CommandState::Running, true).await;
    let source = SourceId::new(&relay.url());
    let pause = submit(&store, Command::SourcePause { source }).await;
    until(&store, pause, CommandState::Done, false).await;
    let cancelled = store.cancel_command(rewind, "test", None).await;
    cancelled.unwrap();
    // The next step of the CommandActor ends what is in progress of it.
    let sink = "webhook".to_owned();
    let resume = submit(&store, Command::SinkResume { sink }).await;
    until(&store, resume, CommandState::Done, false).await;

    hook.is_open.send_replace(true);
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let status = program.status().await;
        let sink = &status["sinks"]["webhook"];
        if sink["behind"] == 0 && sink["position"].as_u64() > Some(0) {
            break;
        }
        assert!(Instant::now() < deadline, "{sink}");
        sleep(POLL_INTERVAL).await;
    }
    let mut changes = hook.changes.lock().unwrap().clone();
    let delivered = changes.len();
    changes.dedup();
    assert_eq!(changes.len(), delivered);
    assert!(changes.is_sorted(), "changes came again: {changes:?}");
    assert_eq!(
        store.command(rewind).await.unwrap().unwrap().state,
        CommandState::Cancelled
    );
}
