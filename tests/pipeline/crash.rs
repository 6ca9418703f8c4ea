//! The process itself, killed at random moments.

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::source::mock_relay::{MockRelay, Options};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::support::{frames, relay_with, soon};
use crate::tables::{Database, assert_same_tables};

/// How often the process is killed; `HUDDLE_CRASHES` says otherwise.
const CRASHES: u32 = 30;

fn run(relay: &MockRelay, database: &Database) -> Child {
    Command::new(env!("CARGO_BIN_EXE_huddle-firehose"))
        .args(["run", "--listen", "127.0.0.1:0", "--stop-after-idle", "3"])
        .args(["--batch-frames", "8", "--index-batch", "10"])
        .args(["--source-url", &relay.url()])
        .args(["--database-url", &database.url()])
        .stderr(Stdio::null())
        // The worker knows no such setting, and says so.
        .env_remove("HUDDLE_CRASHES")
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The events come slowly, so that the process dies amid them and not behind them.
#[tokio::test]
async fn a_process_that_is_killed_again_and_again_loses_nothing() {
    let crashes = std::env::var("HUDDLE_CRASHES").map_or(CRASHES, |text| text.parse().unwrap());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let relay = relay_with(
        frames(),
        Options {
            rate: NonZeroU32::new(100),
            ..Options::default()
        },
    )
    .await;

    let (undisturbed, disturbed) = (Database::new(), Database::new());
    let mut reference = run(&relay, &undisturbed);
    for _ in 0..crashes {
        let mut victim = run(&relay, &disturbed);
        sleep(Duration::from_millis(rng.u64(10..200))).await;
        victim.kill().await.unwrap();
    }
    let survivor = soon(run(&relay, &disturbed).wait()).await;
    assert!(survivor.unwrap().success());
    assert!(soon(reference.wait()).await.unwrap().success());

    assert_eq!(disturbed.rows("PRAGMA integrity_check").await, ["ok"]);
    assert_same_tables(&disturbed.tables().await, &undisturbed.tables().await);
}
