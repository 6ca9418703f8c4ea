//! What a Postgres sink costs a worker of processor time, at a fixed rate of events.

use huddle_firehose::sink::SinkOptions;
use test_support::postgres::Schema;

use crate::replay::Replay;
use crate::{commits, follower, frames, runtime};

/// Events a second, and for how long.
const RATE: u64 = 2_000;
const SECONDS: u64 = 20;
/// One of this many events is kept.
const ONE_OF: [u64; 2] = [10, 1];
const ROUNDS: usize = 3;

pub(crate) fn measure() {
    println!(
        "\n{:<40} {:>8} {:>8} {:>6}   ms of processor a second, {RATE} events/s",
        "cost of a Postgres sink", "without", "with", "ratio"
    );
    for one_of in ONE_OF {
        let count = RATE * SECONDS;
        let commits = commits::matched((count / one_of) as usize);
        let frames = frames::mixed(commits, one_of as usize - 1);
        let mut rounds: Vec<[f64; 2]> = Vec::new();
        for _ in 0..ROUNDS {
            let without = processor(&frames, count, None);
            let schema = runtime().block_on(Schema::new()).unwrap();
            let with = processor(&frames, count, Some(&schema.url()));
            rounds.push([without, with]);
        }
        rounds.sort_by(|one, other| (one[1] / one[0]).total_cmp(&(other[1] / other[0])));
        let [without, with] = rounds[ROUNDS / 2];
        let name = format!("one of {one_of} kept");
        println!(
            "{name:<40} {without:>8.1} {with:>8.1} {:>6.2}",
            with / without
        );
    }
}

/// The processor time that the process of a worker takes in a second, in ms.
fn processor(frames: &[Vec<u8>], count: u64, sink: Option<&str>) -> f64 {
    let replay = Replay::start(frames, count, RATE);
    let folder = tempfile::tempdir().unwrap();
    let usage = follower::follow(&replay, &folder.path().join("worker.db"), &[], |config| {
        let sinks = sink.map(|url| SinkOptions::new(Some("cost"), url).unwrap());
        config.sink.extend(sinks);
    });
    usage.processor().as_secs_f64() * 1e3 / usage.elapsed.as_secs_f64()
}
