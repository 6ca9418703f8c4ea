//! Starts the program like an operator.

use huddle_firehose::testing::mock_relay::MockRelay;
use test_support::tables::Database;
use test_support::worker_process;
use tokio::process::Command;

pub(crate) const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");

/// `run`, with small batches.
pub(crate) fn run(relay: &MockRelay, database: &Database) -> Command {
    let mut command = Command::from(worker_process::command(PATH));
    command.args(arguments(relay, database)).kill_on_drop(true);
    command
}

pub(crate) fn arguments(relay: &MockRelay, database: &Database) -> Vec<String> {
    let (relay, database) = (relay.url(), database.url());
    let listen = ["run", "--listen", "127.0.0.1:0", "--verify", "none"];
    let sizes = ["--batch-frames", "8", "--index-batch", "10"];
    let places = ["--source-url", &relay, "--database-url", &database];
    let arguments = [&listen[..], &sizes[..], &places[..]].concat();
    arguments.into_iter().map(str::to_owned).collect()
}
