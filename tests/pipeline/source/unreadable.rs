//! Frames that can't be read, from a source that sends them again after every reconnect.
//! Holds invariant 5.1.

use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use sqlx::Executor;
use test_support::recorded_frames::frames;
use test_support::running_worker::{config, undisturbed};
use test_support::scripted_server::{Request, Server, behind};
use test_support::tables::{Database, assert_same_tables};
use test_support::waiting::eventually;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use super::{SOME, Survived, survive, worker_at};

/// The length of each frame that could not be decoded, and the error.
const LETTERS: &str = "SELECT length(raw) || ' bytes: ' || error FROM dead_letters \
                       WHERE stage = 'decode'";

/// Asserts that `letter` is the only dead letter of stage `decode`, and all other tables are as
/// usual.
async fn assert_set_aside_alone(survived: &Survived, letter: &str) {
    assert_eq!(survived.database.rows(LETTERS).await, [letter]);
    let mut stranger = survived.database.stranger().await;
    let delete = "DELETE FROM dead_letters WHERE stage = 'decode'";
    stranger.execute(delete).await.unwrap();
    assert_same_tables(&survived.database.tables().await, undisturbed().await);
}

#[tokio::test]
async fn a_bad_frame_that_comes_after_every_reconnect_is_one_dead_letter_and_no_loop() {
    let mut frames = frames();
    frames.insert(SOME, Bytes::from_static(b"\xff\x00 no frame"));
    let behind_it = frames.len() - SOME - 1;
    let survived = survive(
        config(),
        frames,
        3,
        move |request: Request, frames| async move {
            let wanted = behind(&frames, request.cursor()).len();
            // Ends after the bad frame.
            request.serve_some(&frames, wanted - behind_it).await;
        },
    )
    .await;
    let error = "frame: an item of indefinite length at byte 0";
    assert_set_aside_alone(&survived, &format!("11 bytes: {error}")).await;
    let [Some(0), before, again, still] = survived.cursors[..] else {
        panic!("{:?}", survived.cursors);
    };
    // It has no seq that could be a cursor. The event before it is requested once more, and only
    // once.
    let behind_that = before.map(|before| before + 1);
    assert_eq!((again, still), (behind_that, behind_that));
}

/// Holds invariant 6: that nothing is ingested is seen.
#[tokio::test]
async fn a_source_of_which_nothing_can_be_read_makes_the_worker_not_ready() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        while socket.send(Message::binary(&b"no frame"[..])).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let database = Database::new();
    let worker = worker_at(&server, config(), &database).await;
    eventually("a reason", || {
        let reasons = worker.readiness().reasons;
        reasons.iter().any(|reason| {
            reason.message.contains("not been readable") && reason.message.contains("at byte 0")
        })
    })
    .await;
    worker.drain().await;
    assert_eq!(server.cursors().len(), 1);
}

#[tokio::test]
async fn a_frame_longer_than_the_protocol_allows_is_a_dead_letter_and_no_loop() {
    let mut frames = frames();
    frames.insert(SOME, vec![0xa1; 6_000_000].into());
    let survived = survive(config(), frames, 0, async |_, _| {}).await;
    assert!(survived.losses.is_empty(), "{:?}", survived.losses);
    let error = "frame has 6000000 bytes, 5000000 are allowed";
    assert_set_aside_alone(&survived, &format!("6000000 bytes: {error}")).await;
}
