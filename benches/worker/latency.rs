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
        let delays = runtime().block_on(follow(&replay, rate));
        let [p50, p99, most] = percentiles(delays);
        let name = format!("{rate} events/s");
        println!("{name:<40} {p50:>8.1} {p99:>8.1} {most:>8.1}");
    }
}

/// The median, the 99th percentile and the greatest of `delays`, in ms.
pub(crate) fn percentiles(mut delays: Vec<Duration>) -> [f64; 3] {
    delays.sort_unstable();
    [0.5, 0.99, 1.0].map(|part: f64| {
        let index = ((delays.len() - 1) as f64 * part) as usize;
        delays[index].as_secs_f64() * 1e3
    })
}

/// The delay of each kept event.
async fn follow(replay: &Replay, rate: u64) -> Vec<Duration> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    database::create(&path).await;
    let config = service::config(&replay.url, &path, |_| {});
    let tree = worker::start((&config).into(), None).await.unwrap();
    let mut kept = Kept::after_the_first(&tree, replay, rate, ONE_OF).await;
    let mut delays = Vec::new();
    while !kept.is_over() {
        delays.extend(kept.applied());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    tree.drain().await.unwrap();
    delays
}

/// Follows the kept events of a replay.
pub(crate) struct Kept<'a> {
    tree: &'a RunningWorker,
    rate: u64,
    one_of: u64,
    first_seq: u64,
    last_seq: u64,
    first_sent: Instant,
    next: u64,
}

impl<'a> Kept<'a> {
    /// Waits until the first frame of `replay` has arrived. The schedule of the later frames, `rate` a
    /// second, starts there. The last of each `one_of` frames is kept.
    pub(crate) async fn after_the_first(
        tree: &'a RunningWorker,
        replay: &Replay,
        rate: u64,
        one_of: u64,
    ) -> Self {
        let first_seq = replay.last_seq + 1 - replay.count;
        while service::received(tree) < first_seq {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Self {
            tree,
            rate,
            one_of,
            first_seq,
            last_seq: replay.last_seq,
            first_sent: Instant::now(),
            next: first_seq + one_of - 1,
        }
    }

    /// The delays of the events that were applied since the last call.
    pub(crate) fn applied(&mut self) -> Vec<Duration> {
        let applied = service::applied(self.tree).min(self.last_seq);
        let now = Instant::now();
        let mut delays = Vec::new();
        while self.next <= applied {
            let due = Duration::from_micros((self.next - self.first_seq) * 1_000_000 / self.rate);
            delays.push(now.saturating_duration_since(self.first_sent + due));
            self.next += self.one_of;
        }
        delays
    }

    /// All events are applied.
    pub(crate) fn is_over(&self) -> bool {
        self.next > self.last_seq
    }
}
