//! A worker in a separate process, which ends itself at a point that a test chooses.
//!
//! The program itself has no hook for that. So this test binary starts itself again, with one
//! ignored test as the entry, and its orders in the environment. That test builds the same worker,
//! with a real socket, and ends the process at a named point.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::command::{BulkLetters, Command as Given, Reprocess};
use huddle_firehose::model::NewCommand;
use huddle_firehose::store::Store;
use huddle_firehose::store::sqlite::{Options, SqliteStore};
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use huddle_firehose::testing::mock_relay::MockRelay;
use serde::{Deserialize, Serialize};
use test_support::commands::new_command;
use test_support::observed_source::{self, Observed};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::{SLOT_TIMEOUT, eventually};
use tokio::process::{Child, Command};

const ORDERS: &str = "HUDDLE_CHILD_ORDERS";

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Orders {
    relay: String,
    database: String,
    /// The number of pages in SQLite's log at which it is checkpointed.
    pub(crate) checkpoint_pages: u32,
    /// The name of the fault point at which the process ends itself, and at which pass, from 1.
    pub(crate) dies_at: Option<(String, u32)>,
    /// How long it continues after that point, so that it dies at any instruction.
    pub(crate) lingers: Duration,
    /// It is drained when its cursor is here.
    pub(crate) until: u64,
    /// It gives itself so many commands, unless they were given before, and is drained when they are
    /// over.
    pub(crate) commands: u32,
    /// It tries all dead letters again, and is drained when that is over.
    pub(crate) retries: bool,
    /// It judges all records again, and is drained when that is over.
    pub(crate) reprocesses: bool,
    /// It reads the stream again up to here, and is drained when that is over.
    pub(crate) reruns_to: Option<u64>,
}

impl Orders {
    pub(crate) fn new(relay: &MockRelay, database: &Database, until: u64) -> Self {
        Self {
            relay: relay.url(),
            database: database.url(),
            checkpoint_pages: Options::default().checkpoint_pages,
            dies_at: None,
            lingers: Duration::ZERO,
            until,
            commands: 0,
            retries: false,
            reprocesses: false,
            reruns_to: None,
        }
    }

    pub(crate) fn start(&self) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["child::process", "--exact", "--ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(self).unwrap())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
}

/// Whether the process ended itself, and did not fail.
pub(crate) fn ended_itself(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    // The signal of `abort`.
    const SIGABRT: i32 = 6;
    status.signal() == Some(SIGABRT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that other tests start"]
async fn process() {
    let Ok(orders) = std::env::var(ORDERS) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let dies_at = orders.dies_at.clone();
    let faults = dies_at.map_or_else(Faults::default, |(point, pass)| {
        Faults::planned(Arc::new(Death {
            point,
            passes_left: AtomicU32::new(pass),
            lingers: orders.lingers,
        }))
    });
    let options = Options {
        checkpoint_pages: orders.checkpoint_pages,
        faults: faults.clone(),
        ..Options::default()
    };
    let store = SqliteStore::open_with(&orders.database, options)
        .await
        .unwrap();
    // After repeated crashes at one frame that frame is a suspect. Here no frame is the cause.
    store.forget_crashes(&observed_source::id()).await.unwrap();
    let source = Observed::at_url(&orders.relay);
    let given = given(&orders);
    let worker = match given.is_empty() {
        true => Worker::start_at(config(), source, store, faults).await,
        false => {
            let store = Arc::new(store);
            let worker = Worker::start_with_commands(config(), source, store.clone(), faults).await;
            give_commands(&worker, &store, given).await;
            worker
        }
    };
    eventually("the cursor is far enough", || {
        worker.source_status().applied.seq >= orders.until
    })
    .await;
    worker.drain().await;
}

/// The commands that the process gives itself.
fn given(orders: &Orders) -> Vec<Given> {
    let accounts = (0..orders.commands).map(|n| Given::Account {
        did: Did::parse(&format!("did:plc:account{n}")).unwrap(),
        is_shown: true,
    });
    let retry = orders.retries.then(|| {
        Given::DeadLettersRetry(BulkLetters {
            all: true,
            ..BulkLetters::default()
        })
    });
    let rerun = orders.reruns_to.map(|to| Given::Rerun {
        source: observed_source::id(),
        from: 0,
        to: Some(to),
    });
    let reprocess = orders.reprocesses.then(|| {
        Given::Reprocess(Reprocess {
            all: true,
            ..Reprocess::default()
        })
    });
    accounts
        .chain(retry)
        .chain(rerun)
        .chain(reprocess)
        .collect()
}

/// Gives commands, and waits until they are over.
async fn give_commands(worker: &Worker, store: &SqliteStore, given: Vec<Given>) {
    for (n, command) in given.into_iter().enumerate() {
        let new = NewCommand {
            idempotency_key: Some(n.to_string()),
            ..new_command(command)
        };
        store.submit_command(&new).await.unwrap();
    }
    let commands = worker.tree.commands().unwrap();
    commands.wake();
    for row in store.open_commands().await.unwrap() {
        let row = commands.ended(row.id, SLOT_TIMEOUT).await.unwrap().unwrap();
        assert!(row.state.is_ended(), "{row:?}");
    }
}

/// Ends the process, as a crash would: nothing is dropped, closed or written.
struct Death {
    point: String,
    passes_left: AtomicU32,
    lingers: Duration,
}

impl FaultPlan for Death {
    fn strike(&self, point: Point) -> Option<Fault> {
        let is_there = format!("{point:?}") == self.point;
        if is_there && self.passes_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            die_after(self.lingers);
        }
        None
    }
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn die_after(delay: Duration) {
    if delay.is_zero() {
        std::process::abort();
    }
    std::thread::spawn(move || {
        std::thread::sleep(delay);
        std::process::abort();
    });
}
