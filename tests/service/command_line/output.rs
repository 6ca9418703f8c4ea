//! Standard output and standard error that take nothing: full, closed, or with a reader that stands
//! still. Holds invariant 12.2.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use huddle_firehose::testing::mock_relay::MockRelay;
use test_support::mock_relay::recorded_relay;
use test_support::waiting::soon;
use test_support::worker_process::terminate;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{Folder, PROGRAM, SLOT_TIMEOUT};

/// A worker whose log nothing reads.
struct Silent {
    child: Child,
    address: SocketAddr,
}

impl Silent {
    fn start(relay: &MockRelay, folder: &Folder, stderr: Stdio) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(PROGRAM)
            .args(["run", "--listen", &address.to_string(), "--verify", "none"])
            .args(["--source-url", &relay.url()])
            .args(["--database", &folder.path("huddle.db")])
            .env_clear()
            // More than a pipe takes.
            .env("RUST_LOG", "trace")
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, address }
    }

    async fn metrics(&self) -> String {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        loop {
            match reqwest::get(format!("http://{}/metrics", self.address)).await {
                Ok(answer) => return answer.text().await.unwrap(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Waits until a metric that begins with `start` is at least `least`.
    async fn reaches(&self, start: &str, least: f64) {
        let deadline = Instant::now() + SLOT_TIMEOUT;
        loop {
            let metrics = self.metrics().await;
            let line = metrics.lines().find(|line| line.starts_with(start));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            if value.is_some_and(|value| value >= least) {
                return;
            }
            assert!(Instant::now() < deadline, "{start}: {line:?}");
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    async fn ends(mut self) {
        terminate(&self.child).await;
        let ended = soon(self.child.wait()).await.unwrap();
        assert_eq!(ended.code(), Some(0));
    }
}

const CURSOR: &str = "huddle_cursor_seq{";

#[tokio::test]
async fn a_log_on_a_full_disk_is_counted_and_ends_nothing() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let worker = Silent::start(&relay, &folder, full.into());
    worker.reaches(CURSOR, 306.0).await;
    let dropped = "huddle_log_lines_dropped_total{reason=\"write_failed\"}";
    worker.reaches(dropped, 1.0).await;
    worker.ends().await;
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_ends_nothing() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let mut worker = Silent::start(&relay, &folder, Stdio::piped());
    drop(worker.child.stderr.take());
    worker.reaches(CURSOR, 306.0).await;
    worker.ends().await;
}

#[tokio::test]
async fn a_log_whose_reader_stands_still_holds_up_nothing() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    // The pipe stays open, and nothing is read from it.
    let worker = Silent::start(&relay, &folder, Stdio::piped());
    worker.reaches(CURSOR, 306.0).await;
    worker.ends().await;
}

#[test]
fn a_command_whose_output_takes_nothing_does_not_panic() {
    let folder = Folder::new();
    let missing = folder.path("none.db");
    for (arguments, code) in [
        (&["config", "print"][..], 1),
        (&["config", "check", "--batch-frames", "0"], 2),
        (&["status", "--database", &missing], 1),
        (&["--help"], 0),
        (&["run", "--no-such-flag"], 2),
    ] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let ended = std::process::Command::new(PROGRAM)
            .args(arguments)
            .env_clear()
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap();
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
}
