//! The program as a stranger meets it: its output, its exit codes, its endpoints.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod configuration;
mod database;
mod replay;
mod service;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use huddle_firehose::testing::recording;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_huddle-firehose");

/// Long enough for any machine; no test waits for it unless it fails.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

fn huddle(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Like [`huddle`], and lets the relay of the test answer meanwhile.
async fn huddle_meanwhile(arguments: &[&str]) -> Output {
    let output = tokio::process::Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(SLOT_TIMEOUT, output)
        .await
        .unwrap()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn assert_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

fn recording_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/testbed.bin")
}

fn frames() -> Vec<Bytes> {
    recording::load(&recording_file()).unwrap()
}

async fn relay() -> MockRelay {
    MockRelay::start(frames(), Options::default())
        .await
        .unwrap()
}

/// A folder for a database and more.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn database_url(&self) -> String {
        format!("sqlite://{}", self.path("huddle.db"))
    }
}
