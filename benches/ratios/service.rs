//! The whole worker: a real socket, the supervisor tree, a SQLite file.

use std::time::Duration;

use huddle_firehose::config::{Config, Layers};
use huddle_firehose::supervision::tree::Tree;
use huddle_firehose::worker;
use tokio::time::Instant;

use crate::replay::Replay;
use crate::runtime;

const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long it takes until the cursor stands behind everything that `replay` sends.
pub(crate) fn follow(replay: &Replay, change: impl FnOnce(&mut Config)) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("worker.db");
    let mut config = Layers::new().resolve().unwrap().config;
    config.database_url = format!("sqlite://{}", database.display());
    config.source_url = replay.url.parse().unwrap();
    change(&mut config);
    runtime().block_on(async {
        let started = Instant::now();
        let tree = worker::start(config, None).await.unwrap();
        while applied(&tree) < replay.last_seq {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let elapsed = started.elapsed();
        tree.drain().await.unwrap();
        elapsed
    })
}

fn applied(tree: &Tree) -> u64 {
    let status = tree.context().status.snapshot();
    let applied = status.sources.values().map(|source| source.applied.seq);
    applied.max().unwrap_or(0)
}
