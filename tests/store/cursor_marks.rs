//! Where cursors stood, and how far back one can be moved by a time. Holds invariant 13.6.

use std::time::Duration;

use huddle_firehose::model::{GapCause, Position};
use huddle_firehose::store::{Store, WriteBatch};
use jiff::{SignedDuration, Timestamp};

use crate::fixture::*;

const WINDOW: Duration = Duration::from_secs(72 * 3600);
const MARKS: &str = "SELECT CAST(seq AS TEXT) FROM cursor_marks ORDER BY seq";

fn after(minutes: i64) -> Timestamp {
    second(0) + SignedDuration::from_mins(minutes)
}

/// Moves the cursor to `seq`, with an event of that minute.
async fn reach(database: &Database, seq: u64, minute: i64) {
    let batch = WriteBatch {
        source: &source(),
        effects: &[],
        position: Position {
            seq,
            time: Some(after(minute)),
        },
        sequence_restarted: false,
    };
    database.store.apply(&batch).await.unwrap();
}

async fn mark(database: &Database, minute: i64) {
    let marked = database.store.mark_positions(after(minute), WINDOW);
    marked.await.unwrap();
}

/// The mark that a rewind to the minute from seq 1000 uses, and whether it is old enough.
async fn found(database: &Database, minute: i64) -> Option<(u64, bool)> {
    let source = source();
    let mark = database.store.cursor_mark(&source, 1000, after(minute));
    let mark = mark.await.unwrap()?;
    Some((mark.position.seq, mark.is_old_enough))
}

#[tokio::test]
async fn a_cursor_is_marked_once_a_minute_and_found_by_the_time_of_its_event() {
    let database = Database::new().await;
    mark(&database, 0).await;
    assert_eq!(database.column(MARKS).await, Vec::<String>::new());
    for minute in 1..=5 {
        reach(&database, 10 * minute as u64, minute).await;
        mark(&database, minute).await;
        // Another one in the same minute is left out.
        reach(&database, 10 * minute as u64 + 1, minute).await;
        mark(&database, minute).await;
    }
    let marks = database.column(MARKS).await;
    assert_eq!(marks, ["10", "20", "30", "40", "50"]);
    assert_eq!(found(&database, 3).await, Some((30, true)));
    assert_eq!(found(&database, 60).await, Some((50, true)));
    // None is that old, so it is the oldest.
    assert_eq!(found(&database, 0).await, Some((10, false)));
    let other = database.store.cursor_mark(&source(), 10, after(60)).await;
    assert_eq!(other.unwrap(), None, "the cursor only moves back");
}

#[tokio::test]
async fn marks_beyond_the_window_are_deleted() {
    let database = Database::new().await;
    for minute in [1, 2] {
        reach(&database, minute as u64, minute).await;
        mark(&database, minute).await;
    }
    reach(&database, 3, 3).await;
    mark(&database, 72 * 60 + 2).await;
    assert_eq!(database.column(MARKS).await, ["2", "3"]);
}

#[tokio::test]
async fn marks_of_what_is_read_again_are_void() {
    let database = Database::new().await;
    for minute in 1..=3 {
        reach(&database, minute as u64, minute).await;
        mark(&database, minute).await;
    }
    let back = Position { seq: 2, time: None };
    let moved = database.store.move_cursor(&source(), back, None).await;
    moved.unwrap();
    assert_eq!(database.column(MARKS).await, ["1", "2"]);
    let gap = gap(GapCause::FutureCursor, 2, None);
    let start = Position::default();
    let moved = database
        .store
        .move_cursor(&source(), start, Some(&gap))
        .await;
    moved.unwrap();
    assert_eq!(database.column(MARKS).await, Vec::<String>::new());
}

/// Holds invariant 10.8.
#[tokio::test]
async fn a_place_of_the_change_feed_is_found_by_a_time_before_which_nothing_behind_it_was_written()
{
    let database = Database::new().await;
    let place = async |minute| {
        let place = database.store.last_change_before(after(minute));
        place.await.unwrap()
    };
    mark(&database, 0).await;
    for minute in 1..=3_u64 {
        database.apply(&[put(ALICE, "a", minute)]).await;
        mark(&database, minute as i64).await;
    }
    let last = database.column("SELECT last || '' FROM change_feed").await;
    assert_eq!(place(0).await, 0);
    assert_eq!(place(60).await.to_string(), last[0]);
    assert!(0 < place(1).await && place(1).await < place(2).await);
    assert_eq!(place(2).await, place(2).await.min(place(60).await - 1));
    // What is older than the window is forgotten.
    mark(&database, 74 * 60).await;
    assert_eq!(place(3).await, 0);
}
