//! Compares the worker with the bare limit of the same machine at the same time.
//!
//! `cargo bench` runs every row; `cargo bench -- unmatched` runs the rows whose names begin so. Each
//! round measures the bare limit and the worker one after the other, so that other load on the
//! machine affects both. A row shows the median of the rounds' ratios, and their spread.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that can't go on has nothing to say"
)]

mod bare;
mod cold;
mod commits;
mod database;
mod directory;
mod follower;
mod frames;
mod kept;
mod latency;
mod memory;
mod network;
mod process;
mod recording;
mod removal;
mod replay;
mod round;
mod rows;
mod service;
mod sift;
mod sink_cost;
mod sink_feed;
mod sink_nats;
mod sink_postgres;
mod startup;
mod table;
mod takeover;
mod traffic;
mod usage;
mod verified;
mod whole_network;
mod writing;

use rows::ROWS;

/// Rounds for each row. The variable `ROUNDS` overrides it.
const ROUNDS: usize = 5;

/// A process of the benchmark, with the arguments behind its name.
type Process = fn(&[String]);

/// What this program does in another process, by the first argument.
const PROCESSES: [(&str, Process); 4] = [
    (directory::COMMAND, directory::serve),
    (follower::COMMAND, follower::run),
    (replay::COMMAND, replay::serve),
    (sift::COMMAND, sift::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [first, rest @ ..] = &arguments[..]
        && let Some((_, run)) = PROCESSES.iter().find(|(command, _)| first == command)
    {
        return run(rest);
    }
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let named = |name: &str| {
        arguments.is_empty() || arguments.iter().any(|part| name.starts_with(part.as_str()))
    };
    table::print_head();
    for (name, measure) in ROWS {
        if named(name) {
            table::print_row(name, &(0..rounds).map(|_| measure()).collect::<Vec<_>>());
        }
    }
    let others: [(&str, fn()); 6] = [
        ("latency", latency::measure),
        ("removal", removal::measure),
        ("memory", memory::measure),
        ("startup", startup::measure),
        ("sink cost", sink_cost::measure),
        ("takeover", takeover::measure),
    ];
    for (name, measure) in others {
        if named(name) {
            measure();
        }
    }
}

/// The runtime of the service.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}
