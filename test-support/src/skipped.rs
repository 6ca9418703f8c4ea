//! Tells which tests were skipped.
//!
//! The test harness shows only what a failed test has printed, so a skipped test would look like one
//! that passed. A skip is written past the harness to standard error, and noted in a file for the
//! last test target of the run, which lists all of them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "test targets of other packages have this file as a module of their own"
)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Says that the calling test is skipped, and why.
pub fn skip(reason: &str) {
    let line = line(reason);
    tell(&line);
    note(&notes(), &line);
}

/// Lists what was skipped in this run so far, and forgets it.
#[allow(
    dead_code,
    reason = "only the last test target lists the skipped tests"
)]
pub fn list() {
    let noted = take(&notes());
    if !noted.is_empty() {
        let count = noted.lines().count();
        tell(&format!("skipped in this run, in {count} places:\n{noted}"));
    }
}

pub(crate) fn line(reason: &str) -> String {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    format!("SKIPPED: {test}: {}\n", reason.replace('\n', " "))
}

/// Adds `line` to `notes`. Where that fails, the line on standard error still tells it.
pub(crate) fn note(notes: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(notes);
    let _noted = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

#[allow(
    dead_code,
    reason = "only the last test target lists the skipped tests"
)]
pub(crate) fn take(notes: &Path) -> String {
    let noted = fs::read_to_string(notes).unwrap_or_default();
    let _removed = fs::remove_file(notes);
    noted
}

/// Writes to the standard error of the process. `eprintln!` would write to the harness.
fn tell(text: &str) {
    let _told = io::stderr().write_all(text.as_bytes());
}

/// All test targets of a run have one parent: `cargo test`, or nextest.
fn notes() -> PathBuf {
    let run = std::os::unix::process::parent_id();
    std::env::temp_dir().join(format!("huddle-firehose-skipped-{run}"))
}
