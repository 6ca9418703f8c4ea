//! A frame that makes its decoder panic or hang, or ends the process. Holds invariant 5.3.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::config::Config;
use huddle_firehose::delivery::ledger::DELIVERY_FAILURE_LIMIT;
use huddle_firehose::pipeline::cursor::CRASH_LOOP;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use huddle_firehose::testing::mock_relay::MockRelay;
use huddle_firehose::worker::Role;
use test_support::mock_relay::relay;
use test_support::observed_source::Observed;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::soon;
use tokio::process::Command;

use crate::poison::{assert_poison_alone_is_missing, poisoned_frame};

/// Runs `deed` in every decoder that reads `frame`.
struct Poisoned<D> {
    frame: Bytes,
    deed: D,
}

impl<D: Fn() + Send + Sync + 'static> FaultPlan for Poisoned<D> {
    fn strike(&self, _point: Point) -> Option<Fault> {
        None
    }

    fn touch(&self, frame: &[u8]) {
        if self.frame == frame {
            (self.deed)();
        }
    }
}

fn poisoned(frames: &[Bytes], deed: impl Fn() + Send + Sync + 'static) -> Faults {
    let frame = poisoned_frame(frames).clone();
    Faults::planned(Arc::new(Poisoned { frame, deed }))
}

fn restarts_of_decoders(worker: &Worker) -> u64 {
    let decoders = 0..config().decoders;
    decoders
        .map(|index| worker.restarts(Role::Decoder(index)))
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_makes_its_decoder_panic_becomes_a_dead_letter_alone() {
    let (frames, database) = (frames(), Database::new());
    let relay = relay(frames.clone()).await;
    let faults = poisoned(&frames, || panic!("poisoned"));
    let store = database.store().await;
    let worker = Worker::start_at(config(), Observed::at(&relay), store, faults).await;
    worker.reaches(last_seq(&frames)).await;
    assert_eq!(
        restarts_of_decoders(&worker),
        u64::from(DELIVERY_FAILURE_LIMIT)
    );
    worker.drain().await;
    assert_poison_alone_is_missing(&frames, &database).await;
}

/// Blocks each thread that enters, until it is opened.
#[derive(Default)]
struct Trap {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Trap {
    fn enter(&self) {
        let is_open = self.is_open.lock().unwrap();
        let _opened = self.opened.wait_while(is_open, |open| !*open).unwrap();
    }
}

/// Opens the trap in the end, however the test ends: its runtime waits for its threads.
struct Opener(Arc<Trap>);

impl Drop for Opener {
    fn drop(&mut self) {
        *self.0.is_open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }
}

/// A frame that loops for ever behaves the same: its thread never reaches an await.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_its_decoder_never_comes_back_from_becomes_a_dead_letter_alone() {
    let (frames, database) = (frames(), Database::new());
    let relay = relay(frames.clone()).await;
    let trap = Arc::new(Trap::default());
    let _opener = Opener(trap.clone());
    let faults = poisoned(&frames, move || trap.enter());
    let config = Config {
        stuck_after: Duration::from_millis(500),
        ..config()
    };
    let store = database.store().await;
    let worker = Worker::start_at(config, Observed::at(&relay), store, faults).await;
    worker.reaches(last_seq(&frames)).await;
    // On a busy machine a decoder that waits for a processor may be taken for a stuck one.
    assert!(restarts_of_decoders(&worker) >= u64::from(DELIVERY_FAILURE_LIMIT));
    worker.drain().await;
    assert_poison_alone_is_missing(&frames, &database).await;
}

/// The process that the next test starts repeatedly. It is not a test by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn a_worker_that_one_frame_aborts() {
    let source = Observed::at_url(&std::env::var("TEST_RELAY_URL").unwrap());
    let database = std::env::var("TEST_DATABASE_URL").unwrap();
    let store = SqliteStore::open(&database).await.unwrap();
    let faults = poisoned(&frames(), || std::process::abort());
    let worker = Worker::start_at(config(), source, store, faults).await;
    worker.reaches(last_seq(&frames())).await;
    worker.drain().await;
}

async fn run_until_it_ends(relay: &MockRelay, database: &Database) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "poisoned_decoder::a_worker_that_one_frame_aborts",
        ])
        .args(["--ignored", "--quiet"])
        .env("TEST_RELAY_URL", relay.url())
        .env("TEST_DATABASE_URL", database.url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    soon(child.wait()).await.unwrap()
}

#[tokio::test]
async fn a_frame_that_ends_the_process_becomes_a_dead_letter_alone() {
    let (frames, database) = (frames(), Database::new());
    let relay = relay(frames.clone()).await;
    for crash in 1..=CRASH_LOOP + DELIVERY_FAILURE_LIMIT {
        let status = run_until_it_ends(&relay, &database).await;
        assert_eq!(status.signal(), Some(6), "crash {crash}: {status}");
    }
    let status = run_until_it_ends(&relay, &database).await;
    assert!(status.success(), "{status}");
    assert_poison_alone_is_missing(&frames, &database).await;
}
