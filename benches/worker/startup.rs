//! The time from `run` to the first applied event.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::process::Process;
use crate::replay::Replay;
use crate::{commits, database, runtime};

const POLL_INTERVAL: Duration = Duration::from_millis(2);
const ROWS: u64 = 1_000_000;

pub(crate) fn measure() {
    println!("\n{:<40} {:>8}   ms", "run to the first applied event", "");
    let replay = Replay::start(&commits::matched(1), 1, 0);
    let folder = tempfile::tempdir().unwrap();
    let (empty, full) = (
        folder.path().join("empty.db"),
        folder.path().join("full.db"),
    );
    runtime().block_on(async {
        database::fill(&full, ROWS).await;
        for (name, path) in [
            ("without a database", &empty),
            ("with a million records", &full),
        ] {
            let elapsed = start(&replay, path).await.as_secs_f64() * 1e3;
            println!("{name:<40} {elapsed:>8.0}");
        }
    });
}

async fn start(replay: &Replay, path: &Path) -> Duration {
    let started = Instant::now();
    let process = Process::run(&replay.url, path, &[]);
    while process.applied().await.unwrap_or(0) < replay.last_seq {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    started.elapsed()
}
