//! Tests the program from outside: its output, its exit codes, its endpoints.

mod commands;
mod configuration;
mod database;
mod dlq;
mod identities;
mod lexicon_fetch;
mod lexicons;
mod output;
mod replay;
mod service;
mod two_writers;
mod upkeep;

use std::process::{Command, Output};

use tempfile::TempDir;
use test_support::waiting::SLOT_TIMEOUT;

const PROGRAM: &str = env!("CARGO_BIN_EXE_huddle-firehose");

fn huddle(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Like [`huddle`], while the relay of the test answers.
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

/// A folder for a database and other files.
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
