//! A program on a simulated network whose memory is measured. Only Linux tells it.

use std::fs;
use std::process::Stdio;

use simulated_network::http::HttpServer;
use simulated_network::relay::Relay;
use test_support::skipped::skip;
use test_support::worker_process::command;
use tokio::process::{Child, Command};

/// The program, with verification, and with more arguments to come.
pub(crate) fn program(relay: &Relay, http: &HttpServer, database_url: &str) -> Command {
    let mut program = Command::from(command(env!("CARGO_BIN_EXE_huddle-firehose")));
    program
        .args(["run", "--listen", "127.0.0.1:0", "--verify", "chain"])
        .args(["--source-url", &relay.url(), "--plc-url", &http.url()])
        .args(["--allow-private-addresses", "true"])
        .args(["--database-url", database_url])
        .stderr(Stdio::null())
        .kill_on_drop(true);
    program
}

/// The peak memory of a running program so far, in bytes.
pub(crate) fn peak_memory(program: &Child) -> usize {
    let path = format!("/proc/{}/status", program.id().unwrap());
    let status = fs::read_to_string(path).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    1024 * kibibytes.unwrap().parse::<usize>().unwrap()
}

/// Whether the peak is told nowhere, so that the test is skipped.
pub(crate) fn is_skipped() -> bool {
    let is_skipped = !cfg!(target_os = "linux");
    if is_skipped {
        skip("only Linux tells a process's peak of memory in /proc");
    }
    is_skipped
}
