//! What a run knows of the ends of earlier runs. Holds invariant 5.3.

use huddle_firehose::model::SourceId;
use huddle_firehose::store::{CrashHistory, FrameDigest, Store};

use crate::fixture::Database;

const FRAME: FrameDigest = [7; 32];

async fn begin(database: &Database, source: &SourceId) -> CrashHistory {
    database.store.begin_run(source).await.unwrap()
}

#[tokio::test]
async fn crashed_runs_are_counted_until_one_ends_well() {
    let database = Database::new().await;
    let source = SourceId::new("wss://relay.example/");
    for crashes in 0..3 {
        assert_eq!(begin(&database, &source).await.crashes, crashes);
    }
    database.store.forget_crashes(&source).await.unwrap();
    assert_eq!(begin(&database, &source).await, CrashHistory::default());
}

#[tokio::test]
async fn a_frame_in_progress_is_a_suspect_of_each_crash() {
    let database = Database::new().await;
    let source = SourceId::new("wss://relay.example/");
    let mark = |frame| database.store.mark_in_progress(&source, frame);
    begin(&database, &source).await;
    for crashes in 1..=2 {
        mark(Some(FRAME)).await.unwrap();
        let suspects = begin(&database, &source).await.suspects;
        assert_eq!(suspects.into_iter().collect::<Vec<_>>(), [(FRAME, crashes)]);
    }
}

/// A worker that is killed from outside has another frame in progress each time, or none.
#[tokio::test]
async fn a_crash_without_the_frame_in_progress_clears_it() {
    for other in [Some([8; 32]), None] {
        let database = Database::new().await;
        let source = SourceId::new("wss://relay.example/");
        begin(&database, &source).await;
        for in_hand in [Some(FRAME), other] {
            let mark = database.store.mark_in_progress(&source, in_hand);
            mark.await.unwrap();
            begin(&database, &source).await;
        }
        let mark = database.store.mark_in_progress(&source, Some(FRAME));
        mark.await.unwrap();
        let suspects = begin(&database, &source).await.suspects;
        assert_eq!(suspects.into_iter().collect::<Vec<_>>(), [(FRAME, 1)]);
    }
}

#[tokio::test]
async fn the_crashes_of_one_source_are_not_those_of_another() {
    let database = Database::new().await;
    let (one, another) = (SourceId::new("wss://one/"), SourceId::new("wss://two/"));
    begin(&database, &one).await;
    database
        .store
        .mark_in_progress(&one, Some(FRAME))
        .await
        .unwrap();
    begin(&database, &one).await;
    assert_eq!(begin(&database, &another).await, CrashHistory::default());
    database.store.forget_crashes(&another).await.unwrap();
    assert_eq!(begin(&database, &one).await.crashes, 2);
}
