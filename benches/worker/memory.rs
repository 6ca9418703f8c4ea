//! The memory of the service while it catches up at full speed.

use std::time::Duration;

use crate::process::Process;
use crate::replay::Replay;
use crate::{commits, frames, network, runtime};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
const LARGE_BLOCKS: usize = 2_000_000;
const MIB: f64 = 1024.0 * 1024.0;

struct Case {
    name: &'static str,
    frames: fn() -> Vec<Vec<u8>>,
    events: u64,
}

const CASES: [Case; 3] = [
    Case {
        name: "10 million events, unmatched",
        frames: frames::unmatched,
        events: 10_000_000,
    },
    Case {
        name: "10 thousand frames of 2 MB, unmatched",
        frames: || vec![network::commit("app.bsky.feed.post", 1, LARGE_BLOCKS)],
        events: 10_000,
    },
    Case {
        name: "100 thousand events, all matched",
        frames: || commits::matched(2000),
        events: 100_000,
    },
];

pub(crate) fn measure() {
    println!(
        "\n{:<40} {:>8} {:>8} {:>8}   MiB of resident set, the budget being 64",
        "memory", "half way", "end", "peak"
    );
    for case in CASES {
        let replay = Replay::start(&(case.frames)(), case.events, 0);
        let [half, end, peak] = runtime().block_on(follow(&replay)).map(|b| b as f64 / MIB);
        println!("{:<40} {half:>8.1} {end:>8.1} {peak:>8.1}", case.name);
    }
}

async fn follow(replay: &Replay) -> [u64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::run(&replay.url, &folder.path().join("worker.db"), &[]);
    let half_way = replay.last_seq - replay.count / 2;
    let mut half = None;
    loop {
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        let applied = process.applied().await.unwrap_or(0);
        let (now, peak) = process.resident();
        if applied >= half_way {
            half.get_or_insert(now);
        }
        if applied >= replay.last_seq {
            return [half.unwrap_or(now), now, peak];
        }
    }
}
