//! The commits of other accounts while the rows of a large account are deleted.

use std::path::Path;
use std::time::Duration;

use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use simulated_network::frame::{self, Stamp};
use tokio::time::Instant;

use crate::latency::{Kept, percentiles};
use crate::replay::Replay;
use crate::{commits, database, frames, runtime, service};

/// Records of the account. The variable `BENCH_REMOVAL_ROWS` overrides it.
const ROWS: u64 = 500_000;
/// Commits of others a second. Each creates a record.
const RATE: u64 = 100;
/// The commits end after this time.
const SECONDS: u64 = 300;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What was seen during the deletion.
struct Seen {
    elapsed: Duration,
    delays: Vec<Duration>,
    is_complete: bool,
}

pub(crate) fn measure() {
    let rows = std::env::var("BENCH_REMOVAL_ROWS").map_or(ROWS, |text| text.parse().unwrap());
    println!(
        "\n{:<40} {:>8} {:>8} {:>8} {:>8}   socket to commit in ms, {RATE} commits/s",
        "others while an account is deleted", "rows/s", "p50", "p99", "most"
    );
    let mut frames = commits::matched((RATE * SECONDS) as usize);
    frames.insert(RATE as usize, deletion());
    let replay = Replay::start(&frames, frames.len() as u64, RATE);
    let seen = runtime().block_on(follow(&replay, rows));
    let rate = match seen.is_complete {
        true => format!("{:.0}", rows as f64 / seen.elapsed.as_secs_f64()),
        false => "too few".to_owned(),
    };
    let [p50, p99, most] = percentiles(seen.delays);
    let name = format!("{rows} records");
    println!("{name:<40} {rate:>8} {p50:>8.1} {p99:>8.1} {most:>8.1}");
}

fn deletion() -> Vec<u8> {
    let stamp = Stamp {
        seq: frames::FIRST_SEQ,
        time: "2026-08-04T14:38:07.877Z".to_owned(),
    };
    frame::account(stamp, database::LARGE_ACCOUNT, Some("deleted")).to_vec()
}

/// Follows the commits from the deletion of the account until its rows are gone.
async fn follow(replay: &Replay, rows: u64) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    database::fill_account(&path, rows).await;
    let config = service::config(&replay.url, &path, |_| {});
    let tree = worker::start((&config).into(), None).await.unwrap();
    let seen = during_the_removal(&tree, replay, &path).await;
    tree.drain().await.unwrap();
    seen
}

async fn during_the_removal(tree: &RunningWorker, replay: &Replay, path: &Path) -> Seen {
    let deleted_at = replay.last_seq + 1 - replay.count + RATE;
    let mut kept = Kept::after_the_first(tree, replay, RATE, 1).await;
    while service::applied(tree) < deleted_at {
        kept.applied();
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let began = Instant::now();
    let mut delays = Vec::new();
    let mut reader = database::connect(path).await;
    loop {
        delays.extend(kept.applied());
        let is_complete = !database::is_removing(&mut reader).await;
        if is_complete || kept.is_over() {
            return Seen {
                elapsed: began.elapsed(),
                delays,
                is_complete,
            };
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
