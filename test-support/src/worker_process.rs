//! The program itself, as its operator starts it and sees it.

use std::process::{ExitStatus, Stdio};

use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep};

use crate::waiting::{POLL_INTERVAL, SLOT_TIMEOUT, soon};

/// A program that runs.
pub struct Program {
    pub child: Child,
    address: String,
    log: Lines<BufReader<ChildStderr>>,
}

impl Program {
    /// `command` must be a `run` without settings of the log.
    pub async fn start(mut command: Command) -> Self {
        let command = command
            .args(["--log-format", "json"])
            .kill_on_drop(true)
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

    /// The next line of the log whose message begins with `message`.
    pub async fn logs(&mut self, message: &str) -> Value {
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

    /// What an endpoint answers.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.address));
        let answer = answer.await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Waits until `/readyz` answers with `code`; returns its body.
    pub async fn answers(&self, code: StatusCode) -> String {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        loop {
            let (found, body) = self.get("/readyz").await;
            if found == code {
                return body;
            }
            assert!(Instant::now() < deadline, "{body}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// What `/status` says.
    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// Tells it to stop, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        terminate(&self.child).await;
        soon(self.child.wait()).await.unwrap()
    }
}

/// Sends `SIGTERM`.
pub async fn terminate(child: &Child) {
    let id = child.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status();
    assert!(told.await.unwrap().success());
}
