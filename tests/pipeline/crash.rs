//! Kills the process at random moments: while it creates its database, works, or drains.
//! Holds invariant 3.3.

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use test_support::mock_relay::relay_with;
use test_support::recorded_frames::{frames, last_seq};
use test_support::tables::Database;
use test_support::waiting::soon;
use test_support::worker_process::terminate;
use tokio::process::Child;
use tokio::time::sleep;

use crate::history::History;
use crate::program;

/// How often the process is killed, by default.
const CRASHES: u32 = 30;

/// The number of crashes: `HUDDLE_CRASHES`, or `default`.
pub(crate) fn crashes(default: u32) -> u32 {
    std::env::var("HUDDLE_CRASHES").map_or(default, |text| text.parse().unwrap())
}

fn run(relay: &MockRelay, database: &Database) -> Child {
    program::run(relay, database)
        .args(["--stop-after-idle", "3"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A random generator. To repeat a run, put its seed here.
pub(crate) fn seeded() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

/// The events come slowly, so that the process dies between them and not after them.
fn slow() -> Options {
    Options {
        rate: NonZeroU32::new(100),
        ..Options::default()
    }
}

/// A database file on which processes are killed one after another.
struct Victim {
    database: Database,
    cursor: u64,
}

impl Victim {
    fn new() -> Self {
        Self {
            database: Database::new(),
            cursor: 0,
        }
    }

    /// Checks what the last kill has left.
    ///
    /// A frame that was in hand at three kills becomes a dead letter of stage `poison`. The history
    /// does not know that, so the next process gets a new file.
    async fn is_whole(&mut self, history: &History) {
        if self.database.copy().has_poison().await {
            println!("a frame became a dead letter of stage poison");
            *self = Self::new();
            return;
        }
        let cursor = history.assert_whole(&self.database).await;
        assert!(cursor >= self.cursor, "the cursor went back");
        self.cursor = cursor;
    }

    /// Runs a process without a kill, and asserts that it reaches the end.
    async fn survives(mut self, relay: &MockRelay, history: &History, end: u64) {
        while self.cursor < end {
            let survivor = soon(run(relay, &self.database).wait()).await;
            assert!(survivor.unwrap().success());
            self.is_whole(history).await;
        }
    }
}

#[tokio::test]
async fn a_process_that_is_killed_again_and_again_loses_nothing() {
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, slow()).await;
    let history = History::recorded_from(&relay.url()).await;

    let mut victim = Victim::new();
    for _ in 0..crashes(CRASHES) {
        if victim.cursor == end {
            victim = Victim::new();
        }
        let mut process = run(&relay, &victim.database);
        sleep(Duration::from_millis(rng.u64(10..200))).await;
        if rng.bool() {
            // It drains until it is killed.
            terminate(&process).await;
            sleep(Duration::from_millis(rng.u64(0..10))).await;
        }
        process.kill().await.unwrap();
        victim.is_whole(&history).await;
    }
    victim.survives(&relay, &history, end).await;
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_creates_its_database_leaves_one_that_can_be_used() {
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, Options::default()).await;
    let history = History::recorded_from(&relay.url()).await;

    let mut victim = Victim::new();
    for _ in 0..crashes(CRASHES) {
        let mut process = run(&relay, &victim.database);
        sleep(Duration::from_millis(rng.u64(0..40))).await;
        process.kill().await.unwrap();
        victim.is_whole(&history).await;
        // Each file is opened a few times, in the state that the last kill has left.
        if victim.cursor > 0 || rng.u8(..4) == 0 {
            victim = Victim::new();
        }
    }
    victim.survives(&relay, &history, end).await;
}
