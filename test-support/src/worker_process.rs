//! The program itself, as its operator starts it and sees it.
//!
//! A campaign has its settings in the environment, such as `HUDDLE_CRASHES`. The program warns of
//! them as unknown settings, so every child starts with a [`command`] from here.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};

use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep};

use crate::waiting::{POLL_INTERVAL, SLOT_TIMEOUT, soon};

/// A command that passes no `HUDDLE_` variable of the tests on to its process.
pub fn command(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"HUDDLE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A program that runs.
pub struct Program {
    pub child: Child,
    address: String,
    /// Empty without `admin_listen`.
    admin_address: String,
    log: Lines<BufReader<ChildStderr>>,
    log_so_far: String,
}

impl Program {
    /// Starts `command`, which must be a `run` without settings of the log.
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
            admin_address: String::new(),
            log,
            log_so_far: String::new(),
        };
        let starting = program.logs("starting").await;
        starting["listen"]
            .as_str()
            .unwrap()
            .clone_into(&mut program.address);
        let admin = starting["admin_listen"].as_str().unwrap_or_default();
        admin.clone_into(&mut program.admin_address);
        program
    }

    /// The address on which commands are taken.
    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// The address of the endpoints.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next log line whose message begins with `message`.
    pub async fn logs(&mut self, message: &str) -> Value {
        loop {
            let line = soon(self.log.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("{message:?} was not logged"));
            self.log_so_far.push_str(&line);
            let line: Value = serde_json::from_str(&line)
                .unwrap_or_else(|_| panic!("{message:?} was not logged, but {line}"));
            if line["message"].as_str().unwrap().starts_with(message) {
                return line;
            }
        }
    }

    /// The log up to the line that was waited for last.
    pub fn log_so_far(&self) -> &str {
        &self.log_so_far
    }

    /// Requests an endpoint.
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.address));
        let answer = answer.await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Waits until `/readyz` answers with `code`, and returns its body.
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

    /// Requests `/status`.
    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// Sends `SIGTERM`, and waits for the end of the process.
    pub async fn terminate(&mut self) -> ExitStatus {
        terminate(&self.child).await;
        soon(self.child.wait()).await.unwrap()
    }
}

/// Sends `SIGTERM`.
pub async fn terminate(child: &Child) {
    let id = child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.await.unwrap().success());
}
