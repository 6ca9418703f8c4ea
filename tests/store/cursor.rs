//! The cursor moves with the rows and only forward, and each source has its own. Holds invariant
//! 1.4.

use huddle_firehose::model::{GapCause, Position, SourceId};
use huddle_firehose::store::{Store, StoreError, StoredCursor, WriteBatch};

use crate::fixture::*;

fn at(seq: u64) -> Position {
    Position {
        seq,
        time: Some("2026-11-23T17:30:00.123456Z".parse().unwrap()),
    }
}

async fn advance(database: &Database, source: &SourceId, position: Position, restarted: bool) {
    let batch = WriteBatch {
        source,
        effects: &[],
        position,
        sequence_restarted: restarted,
    };
    database.store.apply(&batch).await.unwrap();
}

async fn load(database: &Database, source: &SourceId) -> StoredCursor {
    database.store.load_cursor(source).await.unwrap()
}

#[tokio::test]
async fn a_fresh_install_starts_at_zero_and_is_new() {
    let database = Database::new().await;
    let expected = StoredCursor {
        position: Position::default(),
        is_new: true,
        follows: None,
    };
    assert_eq!(load(&database, &source()).await, expected);
    assert_eq!(load(&database, &source()).await, expected);
}

#[tokio::test]
async fn the_cursor_is_loaded_after_a_restart_with_its_full_time() {
    let database = Database::new().await;
    advance(&database, &source(), at(7), false).await;
    let database = database.reopen().await;
    let cursor = load(&database, &source()).await;
    assert_eq!(cursor.position, at(7));
    assert!(!cursor.is_new);
}

#[tokio::test]
async fn the_cursor_does_not_move_back_unless_the_sequence_has_restarted() {
    let database = Database::new().await;
    // They are compared as numbers and not as text: 10 is more than 9.
    advance(&database, &source(), at(9), false).await;
    advance(&database, &source(), at(10), false).await;
    advance(&database, &source(), at(8), false).await;
    assert_eq!(load(&database, &source()).await.position, at(10));
    advance(&database, &source(), at(3), true).await;
    assert_eq!(load(&database, &source()).await.position, at(3));
}

#[tokio::test]
async fn the_first_source_takes_the_row_main_and_another_gets_its_own() {
    let database = Database::new().await;
    let other = SourceId::new("wss://other.example/");
    load(&database, &source()).await;
    advance(&database, &source(), at(5), false).await;

    let cursor = load(&database, &other).await;
    assert_eq!(cursor.position, Position::default());
    assert!(cursor.is_new);
    assert_eq!(cursor.follows, Some((source(), at(5))));
    assert_eq!(load(&database, &source()).await.follows, None);

    advance(&database, &other, at(3), false).await;
    let rows: Vec<_> = database
        .store
        .cursors()
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.id, row.source, row.position))
        .collect();
    let text = |id: &SourceId| id.to_string();
    assert_eq!(
        rows,
        [
            ("main".to_owned(), Some(text(&source())), at(5)),
            (text(&other), Some(text(&other)), at(3)),
        ]
    );
}

/// It was configured, and not reached before the other one was configured. Holds invariant 6.1.
#[tokio::test]
async fn a_new_source_follows_the_one_whose_cursor_moved_last_whichever_was_seen_first() {
    let database = Database::new().await;
    let others = ["wss://second.example/", "wss://third.example/"].map(SourceId::new);
    let [second, third] = &others;
    for known in [&source(), second, third] {
        assert_eq!(load(&database, known).await.follows, None);
    }
    advance(&database, second, at(5), false).await;
    advance(&database, third, at(3), false).await;
    let expected = Some((third.clone(), at(3)));
    assert_eq!(load(&database, &source()).await.follows, expected);
}

#[tokio::test]
async fn a_source_that_was_never_loaded_is_claimed_by_its_first_batch() {
    let database = Database::new().await;
    advance(&database, &source(), at(5), false).await;
    assert_eq!(load(&database, &source()).await.position, at(5));
    assert_eq!(database.store.cursors().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_cursor_without_a_source_is_claimed() {
    let database = Database::new().await;
    database
        .execute("UPDATE firehose_cursor SET cursor = '42'")
        .await;
    let cursor = load(&database, &source()).await;
    assert_eq!(cursor.position.seq, 42);
    assert!(!cursor.is_new);
    assert_eq!(cursor.follows, None);
}

#[tokio::test]
async fn an_operator_may_put_the_cursor_anywhere_and_the_gap_is_recorded() {
    let database = Database::new().await;
    advance(&database, &source(), at(9), false).await;
    let moved = gap(GapCause::CursorMoved, 9, Some(4));
    database
        .store
        .move_cursor(&source(), at(4), Some(&moved))
        .await
        .unwrap();
    assert_eq!(load(&database, &source()).await.position, at(4));
    assert_eq!(database.store.open_gaps().await.unwrap()[0].from_seq, 9);

    // A zero that was set by hand is not the zero of a new install.
    database
        .store
        .move_cursor(&source(), Position::default(), None)
        .await
        .unwrap();
    let cursor = load(&database, &source()).await;
    assert_eq!(cursor.position, Position::default());
    assert!(!cursor.is_new);
}

#[tokio::test]
async fn a_cursor_that_is_no_number_is_an_error_and_not_a_fresh_start() {
    let database = Database::new().await;
    database
        .execute("UPDATE firehose_cursor SET cursor = 'x'")
        .await;
    let result = database.store.load_cursor(&source()).await;
    assert!(matches!(result, Err(StoreError::Corrupt(_))), "{result:?}");
}
