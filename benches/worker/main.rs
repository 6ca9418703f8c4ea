//! Compares the worker with the bare limit of the same machine at the same time.
//!
//! `cargo bench` runs every row; `cargo bench -- unmatched` runs the rows with this name. Each
//! round measures the bare limit and then the worker, so that other load on the machine affects
//! both. A row shows the median of the rounds' ratios, and their spread.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that can't go on has nothing to say"
)]

mod bare;
mod chains;
mod commits;
mod database;
mod frames;
mod latency;
mod memory;
mod network;
mod process;
mod replay;
mod round;
mod rows;
mod service;
mod sift;
mod startup;
mod table;
mod verified;

use rows::ROWS;

/// Rounds for each row. The variable `ROUNDS` overrides it.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    // The source runs in its own process, like a relay.
    if let [first, rest @ ..] = &arguments[..]
        && first == replay::COMMAND
    {
        return replay::serve(rest);
    }
    if let [first, rest @ ..] = &arguments[..]
        && first == sift::COMMAND
    {
        return sift::run(rest);
    }
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let named = |name: &str| {
        arguments.is_empty() || arguments.iter().any(|part| name.contains(part.as_str()))
    };
    table::print_head();
    for (name, measure) in ROWS {
        if named(name) {
            table::print_row(name, &(0..rounds).map(|_| measure()).collect::<Vec<_>>());
        }
    }
    let others: [(&str, fn()); 3] = [
        ("latency", latency::measure),
        ("memory", memory::measure),
        ("startup", startup::measure),
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
