//! The configuration of a measured worker, and how far it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use huddle_firehose::config::{Config, Layers, Verify};
use huddle_firehose::worker::RunningWorker;

use crate::database;
use crate::directory::Directory;

const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A directory on loopback takes more than the courtesy that plc.directory gets.
const PLC_REQUESTS_PER_SECOND: u32 = 10_000;
const PLC_PARALLELISM: usize = 64;

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

/// Verifies at level `chain`. `directory` has the documents.
pub(crate) fn verify(config: &mut Config, directory: &Directory) {
    config.verify = Verify::Chain;
    config.plc_url = directory.url.parse().unwrap();
    config.plc_requests_per_second = Some(PLC_REQUESTS_PER_SECOND);
    config.plc_parallelism = PLC_PARALLELISM;
    config.allow_private_addresses = true;
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
