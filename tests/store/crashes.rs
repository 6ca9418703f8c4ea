//! What a run learns of how the runs before it ended.

use huddle_firehose::model::SourceId;
use huddle_firehose::store::{CrashHistory, FrameDigest, Store};

use crate::fixture::Database;

const FRAME: FrameDigest = [7; 32];

async fn begin(database: &Database, source: &SourceId) -> CrashHistory {
    database.store.begin_run(source).await.unwrap()
}

#[tokio::test]
async fn runs_that_come_to_no_good_end_are_counted_until_one_does() {
    let database = Database::new().await;
    let source = SourceId::new("wss://relay.example/");
    for crashes in 0..3 {
        assert_eq!(begin(&database, &source).await.crashes, crashes);
    }
    database.store.forget_crashes(&source).await.unwrap();
    assert_eq!(begin(&database, &source).await, CrashHistory::default());
}

#[tokio::test]
async fn a_frame_is_accused_of_each_crash_that_met_it_in_hand() {
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

/// Whoever kills a worker again and again meets now this frame in hand and now that one, or none.
#[tokio::test]
async fn a_crash_without_a_frame_in_hand_clears_it() {
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
