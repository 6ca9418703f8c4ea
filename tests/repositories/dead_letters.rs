//! Dead letters that hold frames, tried again by a worker. Holds invariant 13.9.

use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::command::{BulkLetters, Command};
use huddle_firehose::model::{CommandRow, CommandState, DeadLetter, Position, Stage};
use huddle_firehose::store::letters::LetterFilter;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::{Store, WriteBatch};
use serde_json::json;
use test_support::commands::{new_command, new_row};
use test_support::simulation::verified::Verified;

use super::{D, E, few_accounts_with_offers};

/// Keeps a frame as a dead letter, as a worker does that could not read it.
async fn keep(verified: &Verified, frame: Bytes, stage: Stage) {
    let letter = DeadLetter {
        stage,
        error: "killed every actor that touched it".to_owned(),
        seq: None,
        did: None,
        uri: None,
        task: None,
        raw: frame,
        attempts: 4,
    };
    let batch = WriteBatch {
        source: verified.tree.context().source.id(),
        effects: &[Effect::DeadLetter(Box::new(letter))],
        position: Position { seq: 0, time: None },
        sequence_restarted: false,
    };
    let written = verified.store.apply(&batch).await.unwrap();
    assert_eq!(written.dead_letters, 1);
}

/// Tries all letters again.
async fn retry(verified: &Verified) -> CommandRow {
    let bulk = BulkLetters {
        filter: LetterFilter::default(),
        all: true,
        ..BulkLetters::default()
    };
    let commands = verified.tree.commands().unwrap();
    let retry = new_command(Command::DeadLettersRetry(bulk));
    let row = new_row(commands.submit(&retry).await.unwrap());
    let row = commands.ended(row.id, Duration::from_secs(30)).await;
    let row = row.unwrap().unwrap();
    assert_eq!(row.state, CommandState::Done, "{row:?}");
    row
}

/// A commit that the relay has lost.
fn lost_commit(verified: &Verified, path: &str) -> Bytes {
    verified.withhold(|network| {
        network.write(0, &[path], &[]);
        network.log().last().unwrap().frame.clone()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_whose_commit_follows_is_applied_and_its_letter_is_resolved() {
    let verified = few_accounts_with_offers().await;
    let frame = lost_commit(&verified, D);
    keep(&verified, frame, Stage::Poison).await;
    let row = retry(&verified).await;
    assert_eq!(row.result.unwrap()["became"], json!({ "applied": 1 }));
    assert!(verified.dead_letters().await.is_empty());
    assert_eq!(verified.visible(0).await, 4);
    assert!(verified.resyncs(0).await.is_empty());
    let levels = verified.records(0).await.into_iter();
    assert!(
        levels
            .map(|record| record.verified)
            .all(|level| level == "chain")
    );
    // The chain goes on behind it.
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_settled().await;
    assert!(verified.resyncs(0).await.is_empty());
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_commit_does_not_follow_the_repository_is_fetched_and_the_command_says_so() {
    let verified = few_accounts_with_offers().await;
    let _missing = lost_commit(&verified, D);
    let frame = lost_commit(&verified, E);
    keep(&verified, frame, Stage::Poison).await;
    let row = retry(&verified).await;
    let result = row.result.unwrap();
    assert_eq!(result["became"], json!({ "fetch_requested": 1 }));
    let why = result["letters"][0]["why"].as_str().unwrap();
    assert!(why.contains("does not follow"), "{why}");
    assert!(verified.dead_letters().await.is_empty());
    verified
        .until("the repository is fetched", async || {
            verified.visible(0).await == 5
        })
        .await;
    verified
        .until("the fetch has ended", async || {
            !verified.resyncs(0).await.is_empty()
        })
        .await;
    assert_eq!(verified.resyncs(0).await[0].cause, "operator");
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_refused_again_stays_a_letter_and_changes_nothing() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| network.emit_foreign_commit(0, D));
    verified.until_settled().await;
    assert_eq!(verified.dead_letters().await.len(), 1);
    let fetched = verified.resyncs(0).await.len();
    let row = retry(&verified).await;
    assert_eq!(row.result.unwrap()["became"], json!({ "refused": 1 }));
    let tried = "SELECT attempts FROM dead_letters WHERE retried_at IS NOT NULL";
    assert_eq!(verified.count(tried).await, 2);
    assert_eq!(verified.visible(0).await, 3);
    assert_eq!(verified.resyncs(0).await.len(), fetched);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_frame_are_refused_and_hold_up_no_other_letter() {
    let verified = few_accounts_with_offers().await;
    keep(&verified, Bytes::from_static(b"\xff\x00"), Stage::Decode).await;
    let frame = lost_commit(&verified, D);
    keep(&verified, frame, Stage::Poison).await;
    let row = retry(&verified).await;
    assert_eq!(
        row.result.unwrap()["became"],
        json!({ "applied": 1, "refused": 1 })
    );
    assert_eq!(verified.dead_letters().await.len(), 1);
    verified.compare().await;
}
