//! `demo`, `record` and `mock-relay`: commands that make and play recordings.

use std::process::Stdio;

use test_support::mock_relay::recorded_relay;
use test_support::recorded_frames::recording_file;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{
    Folder, PROGRAM, SLOT_TIMEOUT, assert_success, huddle, huddle_meanwhile, stderr, stdout,
};

#[test]
fn the_demo_shows_its_tables_and_exits_with_zero() {
    let folder = Folder::new();
    let file = folder.path("demo.db");
    let output = huddle(&["demo", "--rate", "5000", "--database", &file], &[]);
    assert_success(&output);
    let shown = stdout(&output);
    assert!(shown.starts_with("306 frames from ws://127.0.0.1:"));
    let row = |name: &str| -> Vec<u64> {
        let line = shown.lines().find(|line| line.starts_with(name));
        let cells = line.unwrap_or_else(|| panic!("no {name} in {shown}"));
        let cells = cells[name.len()..].split_whitespace();
        cells.map(|cell| cell.parse().unwrap()).collect()
    };
    assert_eq!(row("com.huddle.slotOffer "), [60, 8]);
    assert_eq!(row("offers_index"), [60]);
    assert_eq!(row("accounts"), [20]);
    assert_eq!(row("gaps (open)"), [0]);
    assert!(shown.contains(&format!("The database is {file}")));
}

#[tokio::test]
async fn a_recording_of_a_relay_equals_its_frames_byte_for_byte() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let (file, url) = (folder.path("again.bin"), relay.url());
    let arguments = ["record", "--stop-after-idle", "1", "--out", &file];
    let source = ["--source-url", &url];
    let output = huddle_meanwhile(&[&arguments[..], &source].concat()).await;
    assert_success(&output);
    let shown = stdout(&output);
    assert!(
        shown.starts_with("306 frames, 613584 bytes, in "),
        "{shown}"
    );
    let (again, original) = (
        std::fs::read(&file).unwrap(),
        std::fs::read(recording_file()).unwrap(),
    );
    assert!(again == original, "the recordings differ");

    let refused = huddle_meanwhile(&[&arguments[..], &source].concat()).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("exists; --force overwrites it"));
    assert!(std::fs::read(&file).unwrap() == original);
    let forced = [&arguments[..], &source, &["--force", "--cursor", "300"]].concat();
    let forced = huddle_meanwhile(&forced).await;
    assert_success(&forced);
    assert!(
        stdout(&forced).starts_with("6 frames, "),
        "{}",
        stdout(&forced)
    );
}

#[tokio::test]
async fn the_mock_relay_serves_a_recording() {
    let folder = Folder::new();
    let mut server = Command::new(PROGRAM)
        .args(["mock-relay", "--listen", "127.0.0.1:0", "--file"])
        .arg(recording_file())
        .env_clear()
        .kill_on_drop(true)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = timeout(SLOT_TIMEOUT, lines.next_line()).await.unwrap();
    let line = line.unwrap().unwrap();
    let url = line.strip_prefix("serving 306 frames at ").unwrap();

    let file = folder.path("tail.bin");
    let arguments = ["record", "--stop-after-idle", "1", "--out", &file];
    let source = ["--cursor", "300", "--source-url", url];
    let output = huddle_meanwhile(&[&arguments[..], &source].concat()).await;
    assert_success(&output);
    assert!(
        stdout(&output).starts_with("6 frames, "),
        "{}",
        stderr(&output)
    );
}
