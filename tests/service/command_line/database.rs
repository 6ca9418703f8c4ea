//! `migrate`, `cursor`, `resync` and `status`: commands on the database without a worker.
//! Holds invariants 1.4 and 6.1.

use serde_json::Value;
use test_support::tables::stranger_at;

use super::{Folder, assert_success, huddle, huddle_meanwhile, stderr, stdout};

const SOURCE: &str = "wss://relay.example/xrpc/com.atproto.sync.subscribeRepos";

fn with_database(command: &[&str], url: &str) -> std::process::Output {
    let variables = [("HUDDLE_DATABASE_URL", url), ("HUDDLE_SOURCE_URL", SOURCE)];
    huddle(command, &variables)
}

#[test]
fn migrate_creates_the_database_and_may_run_again() {
    let folder = Folder::new();
    let url = folder.database_url();
    for _ in 0..2 {
        let output = with_database(&["migrate"], &url);
        assert_success(&output);
        assert!(stdout(&output).ends_with("is up to date\n"));
    }
}

#[test]
fn commands_that_only_show_do_not_create_a_database() {
    let folder = Folder::new();
    for command in [&["status"][..], &["cursor", "show"]] {
        let output = with_database(command, &folder.database_url());
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(error.starts_with("error: "), "{error}");
        let missing = format!("there is no database at {}", folder.path("huddle.db"));
        assert_eq!(error.matches(&missing).count(), 1, "{error}");
        assert!(!std::path::Path::new(&folder.path("huddle.db")).exists());
    }
}

#[test]
fn a_cursor_that_is_moved_ahead_leaves_a_gap_and_one_that_is_moved_back_does_not() {
    let folder = Folder::new();
    let url = folder.database_url();
    let shown = |command: &[&str]| {
        let output = with_database(command, &url);
        assert_success(&output);
        stdout(&output).to_owned()
    };
    let status = || -> Value { serde_json::from_str(&shown(&["status"])).unwrap() };

    shown(&["migrate"]);
    assert_eq!(
        shown(&["cursor", "show"]),
        "(no source yet)\tseq 0\tevent time -\n"
    );
    let at = |seq: u64| format!("{SOURCE}\tseq {seq}\tevent time -\n");
    assert_eq!(shown(&["cursor", "set", "500", "--accept-gap"]), at(500));
    assert_eq!(shown(&["cursor", "show"]), at(500));
    let json = status();
    assert_eq!(json["cursors"][0]["position"]["seq"], 500);
    assert_eq!(json["counts"]["open_gaps"], 1);
    let gap = &json["open_gaps"][0];
    assert_eq!(gap["cause"], "cursor_moved");
    assert_eq!((&gap["from_seq"], &gap["to_seq"]), (&0.into(), &500.into()));

    // No event has such a seq, so the worker would wait for ever.
    let beyond = (1_u64 << 53).to_string();
    let refused = with_database(&["cursor", "set", &beyond], &url);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains(&beyond));
    assert_eq!(shown(&["cursor", "show"]), at(500));

    assert_eq!(shown(&["cursor", "set", "400"]), at(400));
    assert_eq!(shown(&["cursor", "reset"]), at(0));
    assert_eq!(status()["counts"]["open_gaps"], 1);
}

#[test]
fn a_cursor_of_an_unknown_source_is_refused_where_others_are_known() {
    let folder = Folder::new();
    let url = folder.database_url();
    assert_success(&with_database(&["migrate"], &url));
    assert_success(&with_database(
        &["cursor", "set", "500", "--accept-gap"],
        &url,
    ));
    let other = ["--source-url", "wss://other.example"];
    let refused = with_database(&[&["cursor", "set", "7"][..], &other].concat(), &url);
    assert_eq!(refused.status.code(), Some(1));
    for part in [
        "unknown source wss://other.example/",
        SOURCE,
        "--new-source",
    ] {
        assert!(stderr(&refused).contains(part), "{}", stderr(&refused));
    }
    let set = with_database(
        &[
            &["cursor", "set", "7", "--new-source", "--accept-gap"][..],
            &other,
        ]
        .concat(),
        &url,
    );
    assert_success(&set);
}

#[test]
fn a_database_is_named_by_a_path_or_a_url_and_by_either_flag() {
    let folder = Folder::new();
    let (path, url) = (folder.path("huddle.db"), folder.database_url());
    for arguments in [
        ["migrate", "--database", &path],
        ["migrate", "--database", &url],
        ["status", "--database-url", &path],
        ["status", "--database-url", &url],
    ] {
        assert_success(&huddle(&arguments, &[]));
    }
    assert_success(&huddle(&["status"], &[("HUDDLE_DATABASE_URL", &path)]));
    let files = std::fs::read_dir(folder.path("")).unwrap();
    let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| name.starts_with("huddle.db")));
}

#[test]
fn an_operator_can_request_a_resync() {
    let folder = Folder::new();
    let url = folder.database_url();
    assert_success(&with_database(&["migrate"], &url));
    let asked = with_database(&["resync", "did:plc:ann", "did:web:bob.example"], &url);
    assert_success(&asked);
    assert_eq!(
        stdout(&asked),
        "did:plc:ann\tto be fetched; no worker runs, so it waits for the next run\n\
         did:web:bob.example\tto be fetched; no worker runs, so it waits for the next run\n"
    );
    let asked = with_database(&["repo", "recheck", "did:plc:ann"], &url);
    assert_eq!(
        stdout(&asked),
        "did:plc:ann\tto be compared; no worker runs, so it waits for the next run\n"
    );
    assert_eq!(
        with_database(&["check", "--hosts", "0"], &url)
            .status
            .code(),
        Some(2)
    );
    let status = with_database(&["status"], &url);
    let status: Value = serde_json::from_str(stdout(&status)).unwrap();
    assert_eq!(status["repositories"]["desynchronized"], 2);
    assert_eq!(status["last_resyncs"], serde_json::json!([]));
}

#[test]
fn a_resync_that_would_never_run_is_refused() {
    let folder = Folder::new();
    let url = folder.database_url();
    assert_success(&with_database(&["migrate"], &url));
    for (arguments, code, message) in [
        (&["resync", "ann"][..], 2, "ann"),
        (
            &["resync", "did:plc:ann", "--dids-deny", "did:plc:ann"],
            1,
            "dids_deny",
        ),
        (&["resync", "did:plc:ann", "--verify", "none"], 1, "verify"),
    ] {
        let refused = with_database(arguments, &url);
        assert_eq!(refused.status.code(), Some(code), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(message), "{}", stderr(&refused));
    }
}

#[tokio::test]
async fn a_lock_of_another_program_is_told_with_the_file() {
    let folder = Folder::new();
    let (path, url) = (folder.path("huddle.db"), folder.database_url());
    assert_success(&with_database(&["migrate"], &url));
    let mut stranger = stranger_at(path.as_ref()).await;
    let lock = sqlx::query("BEGIN IMMEDIATE").execute(&mut stranger);
    lock.await.unwrap();
    let output = huddle_meanwhile(&["resync", "did:plc:ann", "--database", &path]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains(&path) && error.contains("another program holds the lock of the file"),
        "{error}"
    );
}
