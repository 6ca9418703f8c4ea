//! One process writes to a database at a time. Holds invariant 12.3.

use test_support::mock_relay::recorded_relay;

use super::service::{reaches, start};
use super::{Folder, assert_success, huddle_meanwhile, stderr, stdout};

#[tokio::test]
async fn a_command_that_a_running_worker_would_undo_is_refused_and_names_it() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let worker = start(&relay, &folder).await;
    reaches(&worker, &relay, 306).await;
    let url = relay.url();
    let places = [
        "--database",
        &folder.path("huddle.db"),
        "--source-url",
        &url,
    ];
    for command in [
        &["run", "--listen", "127.0.0.1:0"][..],
        &["backfill", "--listen", "127.0.0.1:0"],
        &["migrate"],
    ] {
        let refused = huddle_meanwhile(&[command, &places].concat()).await;
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let holder = format!(
            "is in use by process {} (`run`, since ",
            worker.child.id().unwrap()
        );
        assert!(stderr(&refused).contains(&holder), "{}", stderr(&refused));
    }

    // These only read, or ask the worker.
    for command in [
        &["status"][..],
        &["cursor", "show"],
        &["account", "did:plc:ann"],
        &["account", "did:plc:ann", "--active"],
    ] {
        assert_success(&huddle_meanwhile(&[command, &places].concat()).await);
    }
}

#[tokio::test]
async fn a_killed_worker_leaves_no_lock_behind() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let mut worker = start(&relay, &folder).await;
    reaches(&worker, &relay, 306).await;
    worker.child.kill().await.unwrap();
    let url = relay.url();
    let places = [
        "--database",
        &folder.path("huddle.db"),
        "--source-url",
        &url,
    ];
    let moved = huddle_meanwhile(&[&["cursor", "set", "5"][..], &places].concat()).await;
    assert_success(&moved);
    assert!(stdout(&moved).contains("\tseq 5\t"), "{}", stdout(&moved));
}

#[tokio::test]
async fn a_backfill_beside_no_worker_says_so() {
    let folder = Folder::new();
    let database = folder.path("huddle.db");
    assert_success(&huddle_meanwhile(&["migrate", "--database", &database]).await);
    let refused = huddle_meanwhile(&["backfill", "--beside", "--database", &database]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("no worker runs on"),
        "{}",
        stderr(&refused)
    );
}
