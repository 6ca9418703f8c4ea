//! A panic reaches the log. The test starts itself again, because a process has one hook and one
//! log.

use std::process::Command;

use huddle_firehose::config::LogFormat;
use huddle_firehose::telemetry::log;

/// Set for the process that panics.
const INNER: &str = "PANIC_LOG_INNER";

#[test]
fn a_panic_is_one_line_of_a_json_log() {
    if std::env::var_os(INNER).is_some() {
        log::init(LogFormat::Json, None).unwrap();
        let thread = std::thread::Builder::new().name("indexer".to_owned());
        let panicked = thread.spawn(|| panic!("first\nsecond")).unwrap().join();
        assert!(panicked.is_err());
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "panic_log::a_panic_is_one_line_of_a_json_log",
            "--nocapture",
        ])
        .env(INNER, "1")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["message"], "panic");
    assert_eq!(line["error"], "first second");
    assert_eq!(line["thread"], "indexer");
    let location = line["location"].as_str().unwrap();
    assert!(
        location.starts_with("tests/service/panic_log.rs:"),
        "{location}"
    );
}
