//! Networks that another implementation has recorded: the program follows them at level `chain`, and
//! holds in the end what their authors say is right.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;
use test_support::foreign_network::ForeignNetwork;
use test_support::shared_data::shared_data;
use test_support::tables::{Database, assert_same};
use test_support::waiting::soon;
use test_support::worker_process;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::program;

const VISIBLE: &str = "SELECT uri || ' ' || cid FROM visible_records";

/// The program ends when the stream is idle and no work is left.
fn follow(network: &ForeignNetwork, database: &Database) -> Child {
    Command::from(worker_process::command(program::PATH))
        .args(["run", "--listen", "127.0.0.1:0", "--verify", "chain"])
        .args(["--collections", "app.bsky.*", "--validation", "off"])
        .args(["--start", "oldest", "--stop-after-idle", "3"])
        .args(["--allow-private-addresses", "true"])
        .args(["--source-url", &network.source_url()])
        .args(["--plc-url", &network.directory_url()])
        .args(["--database-url", &database.url()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn assert_followed(network: &ForeignNetwork, database: &Database) {
    let ended = soon(follow(network, database).wait()).await;
    assert!(ended.unwrap().success());
    let visible = database.rows(VISIBLE).await.into_iter().collect();
    assert!(!network.records().is_empty());
    assert_same("visible records", &visible, &network.records());
}

async fn is_followed_at(folder: &Path, rate: Option<u32>) {
    let network = ForeignNetwork::start(folder, rate.and_then(NonZeroU32::new)).await;
    assert_followed(&network, &Database::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementations_network_is_followed() {
    if let Some(folder) = shared_data("foreign") {
        is_followed_at(&folder, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_another_implementation_can_say_is_followed_at_any_rate() {
    if let Some(folder) = shared_data("foreign/hostile") {
        for rate in [None, Some(2000), Some(200)] {
            is_followed_at(&folder, rate).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_another_implementation_can_say_is_followed_by_a_worker_that_is_killed() {
    let Some(folder) = shared_data("foreign/hostile") else {
        return;
    };
    let mut random = crate::crash::seeded();
    let network = ForeignNetwork::start(&folder, NonZeroU32::new(200)).await;
    let database = Database::new();
    for _ in 0..6 {
        let mut process = follow(&network, &database);
        sleep(time_to_live(&mut random)).await;
        process.kill().await.unwrap();
    }
    assert_followed(&network, &database).await;
}

fn time_to_live(random: &mut Rng) -> Duration {
    Duration::from_millis(random.u64(200..1200))
}
