//! The time from sending a frame until its record is committed and the cursor is behind it.

use std::time::Duration;

use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use tokio::time::Instant;

use crate::replay::Replay;
use crate::{commits, database, frames, runtime, service};

/// Events a second.
const RATES: [u64; 3] = [500, 2_000, 10_000];
const SECONDS: u64 = 5;
/// One of this many events is kept.
const ONE_OF: u64 = 10;
const POLL_INTERVAL: Duration = Duration::from_micros(200);

pub(crate) fn measure() {
    println!(
        "\n{:<40} {:>8} {:>8} {:>8}   ms, one event of {ONE_OF} being kept",
        "socket to commit", "p50", "p99", "most"
    );
    for rate in RATES {
        let count = rate * SECONDS;
        let commits = commits::matched((count / ONE_OF) as usize);
        let frames = frames::mixed(commits, ONE_OF as usize - 1);
        let replay = Replay::start(&frames, count, rate);
        let mut delays = runtime().block_on(follow(&replay, rate));
        delays.sort_unstable();
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|part: f64| {
            let index = ((delays.len() - 1) as f64 * part) as usize;
            delays[index].as_secs_f64() * 1e3
        });
        let name = format!("{rate} events/s");
        println!("{name:<40} {p50:>8.1} {p99:>8.1} {most:>8.1}");
    }
}

/// The delay of each kept event.
async fn follow(replay: &Replay, rate: u64) -> Vec<Duration> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    database::create(&path).await;
    let config = service::config(&replay.url, &path, |_| {});
    let tree = worker::start((&config).into(), None).await.unwrap();
    let first_seq = replay.last_seq + 1 - replay.count;
    let first_sent = first_seen(&tree, first_seq).await;
    let mut delays = Vec::new();
    let mut next = first_seq + ONE_OF - 1;
    while next <= replay.last_seq {
        let applied = service::applied(&tree);
        let now = Instant::now();
        while next <= applied && next <= replay.last_seq {
            let due = Duration::from_micros((next - first_seq) * 1_000_000 / rate);
            delays.push(now.saturating_duration_since(first_sent + due));
            next += ONE_OF;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    tree.drain().await.unwrap();
    delays
}

/// The time at which the first frame had arrived. The schedule of the later frames starts here.
async fn first_seen(tree: &RunningWorker, first_seq: u64) -> Instant {
    while service::received(tree) < first_seq {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Instant::now()
}
