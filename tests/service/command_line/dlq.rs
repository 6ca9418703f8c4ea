//! Dead letters on the command line, without a worker and with one. Holds invariants 13.1 and 13.9.

use serde_json::Value;
use test_support::mock_relay::recorded_relay;
use test_support::recorded_frames::{frames, last_seq};

use super::service::{reaches, start};
use super::{Folder, assert_success, huddle_meanwhile, stderr, stdout};

/// A database with the dead letters of the recording, whose worker has ended.
async fn filled() -> Folder {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let mut worker = start(&relay, &folder).await;
    reaches(&worker, &relay, last_seq(&frames())).await;
    assert!(worker.terminate().await.success());
    folder
}

async fn dlq(folder: &Folder, arguments: &[&str]) -> std::process::Output {
    let database = folder.path("huddle.db");
    // The recording is not verified.
    let places = ["--database", &database, "--verify", "none"];
    huddle_meanwhile(&[&["dlq"], arguments, &places].concat()).await
}

async fn succeeds(folder: &Folder, arguments: &[&str]) -> String {
    let output = dlq(folder, arguments).await;
    assert_success(&output);
    stdout(&output).to_owned()
}

async fn json(folder: &Folder, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(folder, arguments).await).unwrap()
}

#[tokio::test]
async fn letters_are_listed_grouped_shown_and_exported_without_a_worker() {
    let folder = filled().await;
    let list = json(&folder, &["list"]).await;
    let letters = list.as_array().unwrap();
    assert!(!letters.is_empty());
    let groups = json(&folder, &["groups"]).await;
    let count: u64 = groups
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["letters"].as_u64().unwrap())
        .sum();
    assert_eq!(count, letters.len() as u64);

    let id = letters[0]["id"].to_string();
    let letter = json(&folder, &["show", &id]).await;
    assert_eq!(letter["error"], letters[0]["error"]);
    let missing = dlq(&folder, &["show", "99999"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("99999"), "{}", stderr(&missing));

    let exported = succeeds(&folder, &["export", &id]).await;
    let exported: Value = serde_json::from_str(exported.trim()).unwrap();
    assert!(exported["raw"].is_string());
    let file = folder.path("letters.jsonl");
    succeeds(&folder, &["export", "--out", &file]).await;
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), letters.len());
    let taken = dlq(&folder, &["export", "--out", &file]).await;
    assert_eq!(taken.status.code(), Some(1), "nothing is overwritten");
}

#[tokio::test]
async fn letters_are_tried_again_and_discarded_by_the_filter() {
    let folder = filled().await;
    let nothing = dlq(&folder, &["discard"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    let error = stderr(&nothing);
    assert!(
        error.contains("--stage") && error.contains("or --all"),
        "{error}"
    );

    let refused = succeeds(&folder, &["retry", "--stage", "validate"]).await;
    assert!(refused.contains("refused"), "{refused}");
    let before = json(&folder, &["list", "--stage", "validate"]).await;
    let count = before.as_array().unwrap().len();
    assert!(count > 0);
    assert_eq!(before[0]["attempts"], 2);

    let relaxed = ["retry", "--stage", "validate", "--validation", "off"];
    let told = succeeds(&folder, &[&relaxed[..], &["--dry-run"]].concat()).await;
    assert!(told.contains("nothing was changed"), "{told}");
    assert_eq!(
        json(&folder, &["list", "--stage", "validate"]).await,
        before
    );
    let told = succeeds(&folder, &relaxed).await;
    assert!(told.contains(&format!("{count} applied")), "{told}");
    let after = json(&folder, &["list", "--stage", "validate"]).await;
    assert_eq!(after.as_array().unwrap().len(), 0);

    let told = succeeds(&folder, &["discard", "--all", "--reason", "a test"]).await;
    assert!(
        told.contains("discarded") || told.contains("no letters"),
        "{told}"
    );
    assert_eq!(json(&folder, &["list"]).await, serde_json::json!([]));
}

#[tokio::test]
async fn a_letter_that_is_named_and_does_not_exist_is_an_error() {
    let folder = filled().await;
    let file = folder.path("none.jsonl");
    for command in [
        &["retry", "99999"][..],
        &["discard", "99999"],
        &["export", "99999", "--out", &file],
        &["list", "99999"],
        &["groups", "99999"],
    ] {
        let output = dlq(&folder, command).await;
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let error = stderr(&output);
        assert!(error.contains("there is no dead letter 99999"), "{error}");
    }
    assert!(!std::path::Path::new(&file).exists());

    let list = json(&folder, &["list"]).await;
    let id = list[0]["id"].to_string();
    let some = dlq(&folder, &["discard", &id, "99999"]).await;
    assert_eq!(some.status.code(), Some(1));
    assert!(stdout(&some).contains("1 discarded"), "{}", stdout(&some));
    let error = stderr(&some);
    assert!(error.contains("there is no dead letter 99999"), "{error}");
}
