//! The program itself, as its operator starts it and sees it.

use std::process::Stdio;

use huddle_firehose::testing::mock_relay::MockRelay;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep};

use crate::support::{POLL_INTERVAL, SLOT_TIMEOUT, soon};
use crate::tables::Database;

pub(crate) const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");

/// `run`, with small batches.
pub(crate) fn run(relay: &MockRelay, database: &Database) -> Command {
    let mut command = Command::new(PATH);
    command
        .args(arguments(relay, database))
        // The worker knows no such setting, and says so.
        .env_remove("HUDDLE_CRASHES")
        .kill_on_drop(true);
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

/// A program that runs.
pub(crate) struct Program {
    pub(crate) child: Child,
    address: String,
    log: Lines<BufReader<ChildStderr>>,
}

impl Program {
    pub(crate) async fn start(mut command: Command) -> Self {
        let command = command
            .args(["--log-format", "json"])
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut program = Self {
            child,
            address: String::new(),
            log,
        };
        let starting = program.logs("starting").await;
        starting["listen"]
            .as_str()
            .unwrap()
            .clone_into(&mut program.address);
        program
    }

    /// The next line of the log that says `message`.
    pub(crate) async fn logs(&mut self, message: &str) -> Value {
        loop {
            let line = soon(self.log.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("{message:?} was not logged"));
            let line: Value = serde_json::from_str(&line)
                .unwrap_or_else(|_| panic!("{message:?} was not logged, but {line}"));
            if line["message"].as_str().unwrap().starts_with(message) {
                return line;
            }
        }
    }

    /// Waits until `/readyz` answers with `code`; returns its body.
    pub(crate) async fn answers(&self, code: StatusCode) -> String {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        loop {
            let answer = reqwest::get(format!("http://{}/readyz", self.address)).await;
            let answer = answer.unwrap();
            if answer.status() == code {
                return answer.text().await.unwrap();
            }
            assert!(Instant::now() < deadline, "{:?}", answer.text().await);
            sleep(POLL_INTERVAL).await;
        }
    }
}
