//! The process itself, killed at random moments: while it creates its database, at work, and while it
//! is told to stop.

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::source::mock_relay::{MockRelay, Options};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::history::History;
use crate::program;
use crate::support::{frames, last_seq, relay_with, soon};
use crate::tables::{Database, assert_same_tables};

/// How often the process is killed, by default.
const CRASHES: u32 = 30;

/// How often it is to crash: what `HUDDLE_CRASHES` says, or `default`.
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

async fn terminate(child: &Child) {
    let id = child.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status();
    assert!(told.await.unwrap().success());
}

/// Random numbers that come again where the seed is put here by hand.
pub(crate) fn seeded() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

/// The events come slowly, so that the process dies amid them and not behind them.
fn slow() -> Options {
    Options {
        rate: NonZeroU32::new(100),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_process_that_is_killed_again_and_again_loses_nothing() {
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, slow()).await;
    let history = History::recorded_from(&relay.url()).await;

    let (undisturbed, mut disturbed) = (Database::new(), Database::new());
    let mut reference = run(&relay, &undisturbed);
    let mut cursor = 0;
    for _ in 0..crashes(CRASHES) {
        if cursor == end {
            (disturbed, cursor) = (Database::new(), 0);
        }
        let mut victim = run(&relay, &disturbed);
        sleep(Duration::from_millis(rng.u64(10..200))).await;
        if rng.bool() {
            // It drains, for as long as it is let.
            terminate(&victim).await;
            sleep(Duration::from_millis(rng.u64(0..10))).await;
        }
        victim.kill().await.unwrap();
        let came_to = history.assert_whole(&disturbed).await;
        assert!(came_to >= cursor, "the cursor went back");
        cursor = came_to;
    }
    let survivor = soon(run(&relay, &disturbed).wait()).await;
    assert!(survivor.unwrap().success());
    assert!(soon(reference.wait()).await.unwrap().success());

    assert_eq!(disturbed.rows("PRAGMA integrity_check").await, ["ok"]);
    assert_same_tables(&disturbed.tables().await, &undisturbed.tables().await);
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_creates_its_database_leaves_one_that_can_be_used() {
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, Options::default()).await;
    let history = History::recorded_from(&relay.url()).await;

    let mut database = Database::new();
    for _ in 0..crashes(CRASHES) {
        let mut victim = run(&relay, &database);
        sleep(Duration::from_millis(rng.u64(0..40))).await;
        victim.kill().await.unwrap();
        // Each file is met a few times, in whatever state it was left.
        if history.assert_whole(&database).await > 0 || rng.u8(..4) == 0 {
            database = Database::new();
        }
    }
    let survivor = soon(run(&relay, &database).wait()).await;
    assert!(survivor.unwrap().success());
    assert_eq!(history.assert_whole(&database).await, end);
}
