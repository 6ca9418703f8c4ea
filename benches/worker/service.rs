//! The whole worker: a real socket, the supervisor tree, a SQLite file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use huddle_firehose::config::{Config, Layers, Verify};
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use tokio::time::Instant;

use crate::database;
use crate::replay::Replay;

const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The time until the cursor is behind everything that `replay` sends. The database at `path` must
/// exist.
pub(crate) async fn follow(
    replay: &Replay,
    path: &Path,
    change: impl FnOnce(&mut Config),
) -> Duration {
    database::create(path).await;
    let config = config(&replay.url, path, change);
    let tree = worker::start((&config).into(), None).await.unwrap();
    until_connected(&tree).await;
    let started = Instant::now();
    wait_for(&tree, replay.last_seq).await;
    let elapsed = started.elapsed();
    tree.drain().await.unwrap();
    elapsed
}

pub(crate) fn config(source_url: &str, path: &Path, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Layers::new().resolve().unwrap().config;
    config.database_url = database::url(path);
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
    config.source_url = source_url.parse().unwrap();
    // The frames of the benchmark are not signed.
    config.verify = Verify::None;
    change(&mut config);
    config
}

/// Waits until the worker is connected. Before that it loads the tracked repositories.
pub(crate) async fn until_connected(tree: &RunningWorker) {
    while tree.context().first_connected_at().is_none() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until the cursor is at `seq`.
pub(crate) async fn wait_for(tree: &RunningWorker, seq: u64) {
    while applied(tree) < seq {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The seq up to which everything is applied.
pub(crate) fn applied(tree: &RunningWorker) -> u64 {
    let status = tree.context().status.snapshot();
    let applied = status.sources.values().map(|source| source.applied.seq);
    applied.max().unwrap_or(0)
}

/// The newest seq received so far.
pub(crate) fn received(tree: &RunningWorker) -> u64 {
    let status = tree.context().status.snapshot();
    let received = status.sources.values().map(|source| source.received.seq);
    received.max().unwrap_or(0)
}
