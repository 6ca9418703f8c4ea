//! The time from `run` to the first applied event.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::process::Process;
use crate::replay::Replay;
use crate::{commits, database, runtime};

const POLL_INTERVAL: Duration = Duration::from_millis(2);
const EVENTS: usize = 10;
const ROWS: u64 = 1_000_000;
const IDENTITIES: u64 = 100_000;

pub(crate) fn measure() {
    println!("\n{:<40} {:>8}   ms", "run to the first applied event", "");
    // The first event is a leap of the seq, which a few others have to confirm.
    let replay = Replay::start(&commits::matched(EVENTS), EVENTS as u64, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (empty, full, known) = (path("empty.db"), path("full.db"), path("known.db"));
    runtime().block_on(async {
        database::fill(&full, ROWS).await;
        database::fill(&known, IDENTITIES).await;
        database::fill_identities(&known, IDENTITIES).await;
        for (name, path, level) in [
            ("without a database", &empty, "none"),
            ("with a million records", &full, "none"),
            ("chain, with 100,000 tracked accounts", &known, "chain"),
        ] {
            let elapsed = start(&replay, path, level).await.as_secs_f64() * 1e3;
            println!("{name:<40} {elapsed:>8.0}");
        }
    });
}

async fn start(replay: &Replay, path: &Path, level: &str) -> Duration {
    let started = Instant::now();
    let process = Process::run_at(level, &replay.url, path, &[]);
    while process.applied().await.unwrap_or(0) < replay.last_seq {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    started.elapsed()
}
