//! Failures: a refused effect is named, and a failing database is retried. Holds invariant 1.1.

use std::fs;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use huddle_firehose::model::Position;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::{JobKind, RepoStore};
use huddle_firehose::store::{Store, StoreError, WriteBatch};
use jiff::Timestamp;
use sqlx::Executor;

use crate::commits::*;
use crate::fixture::*;

const REFUSE: &str = "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.rkey = 'poison' \
                      BEGIN SELECT RAISE(ABORT, 'poisoned'); END";

async fn cursor(database: &Database) -> u64 {
    let cursor = database.store.load_cursor(&source()).await.unwrap();
    cursor.position.seq
}

fn assert_unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Unavailable(_))),
        "{result:?}"
    );
}

/// A hand may write any number. It must not make the rows behind it unreadable.
#[tokio::test]
async fn a_count_below_zero_counts_as_zero_and_stops_nothing() {
    for attempts in [-1, i64::MAX] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        let edit = format!(
            "UPDATE repos SET attempts = {attempts}, recheck_cause = 0, retry_at = NULL; \
             INSERT INTO accounts (did, active, status, is_unconfirmed, attempts) \
             VALUES ('{ALICE}', 0, 'deactivated', 1, {attempts}); \
             INSERT INTO suspected_jobs (did, job, runs) VALUES ('{ALICE}', 'fetch', {attempts})"
        );
        let edited = sqlx::raw_sql(sqlx::AssertSqlSafe(edit))
            .execute(&mut database.other_process().await)
            .await;
        edited.unwrap();
        let now = Timestamp::now();
        let store = &database.store;
        let due = store.due(JobKind::Recheck, now, 9).await.unwrap();
        let unconfirmed = store.unconfirmed(now, 9).await.unwrap();
        assert_eq!((due.len(), unconfirmed.len()), (1, 1), "{attempts}");
        assert_eq!(store.begin_jobs().await.unwrap().len(), 1);
        // One more is counted on.
        database.retry_later(ALICE, now).await;
        database.apply(&[put_by(ALICE, "b", 4)]).await;
    }
}

/// An error may quote what a stranger sent.
#[tokio::test]
async fn the_text_of_an_error_is_cut_when_it_is_stored() {
    let database = Database::new().await;
    let mut letter = dead_letter(1);
    if let Effect::DeadLetter(letter) = &mut letter {
        letter.error = "\u{e4}".repeat(1 << 20);
    }
    database.apply(&[letter]).await;
    let length = "SELECT length(error) FROM dead_letters";
    assert_eq!(database.number(length).await, 1000);
}

#[tokio::test]
async fn a_refused_effect_is_named_and_nothing_is_half_applied() {
    let database = Database::new().await;
    database.execute(REFUSE).await;
    let batch = [
        put(ALICE, "a", 1),
        put(ALICE, "poison", 2),
        account(BOB, Some("takendown"), 3),
        put(BOB, "poison", 4),
        dead_letter(5),
    ];
    let Err(StoreError::Rejected(rejections)) = database.try_apply(&batch, 5).await else {
        panic!("the batch was not refused");
    };
    let named: Vec<usize> = rejections
        .iter()
        .map(|rejection| rejection.part.effect)
        .collect();
    assert_eq!(named, [1, 3]);
    assert!(rejections[0].reason.contains("poisoned"), "{rejections:?}");
    assert!(database.contents().await.is_empty());
    assert_eq!(cursor(&database).await, 0);

    // Without them the batch is applied.
    let rest = [batch[0].clone(), batch[2].clone(), batch[4].clone()];
    database.try_apply(&rest, 5).await.unwrap();
    assert_eq!(cursor(&database).await, 5);
}

#[tokio::test]
async fn a_refusal_that_no_effect_causes_is_a_failure_of_the_database() {
    let database = Database::new().await;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON firehose_cursor WHEN NEW.cursor = '5' \
             BEGIN SELECT RAISE(ABORT, 'not here'); END",
        )
        .await;
    assert_unavailable(database.try_apply(&[put(ALICE, "a", 1)], 5).await);
    assert!(database.contents().await.is_empty());
}

#[tokio::test]
async fn a_database_that_is_locked_is_unavailable_and_then_works() {
    let database = Database::with_busy_timeout(Duration::from_millis(50)).await;
    let mut other = database.other_process().await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let batch = [put(ALICE, "a", 1)];
    assert_unavailable(database.try_apply(&batch, 1).await);
    assert_unavailable(database.store.check_writable().await);

    other.execute("ROLLBACK").await.unwrap();
    database.store.check_writable().await.unwrap();
    assert_eq!(database.try_apply(&batch, 1).await.unwrap().records, 1);
}

#[tokio::test]
async fn a_missing_table_is_unavailable_and_no_dead_letter() {
    let database = Database::new().await;
    database
        .execute("ALTER TABLE bookings RENAME TO mislaid")
        .await;
    let batch = [booking(BOB, "b", 1, "at://did:plc:alice/x/y", "confirmed")];
    assert_unavailable(database.try_apply(&batch, 1).await);
    assert_eq!(database.number("SELECT count(*) FROM records").await, 0);

    database
        .execute("ALTER TABLE mislaid RENAME TO bookings")
        .await;
    database.try_apply(&batch, 1).await.unwrap();
}

#[tokio::test]
async fn an_apply_that_is_dropped_leaves_no_transaction_open() {
    // A connection that is being closed may hold the lock a moment longer.
    let database = Database::new().await;
    let effects: Vec<_> = (0..300).map(|n| put(ALICE, &n.to_string(), n)).collect();
    let batch = WriteBatch {
        source: &source(),
        effects: &effects,
        position: Position {
            seq: 300,
            time: None,
        },
        sequence_restarted: false,
    };
    // It is dropped one step later each time. It is polled only when it can make progress.
    for steps in 1..40 {
        let mut apply = database.store.apply(&batch);
        let mut step = 0;
        poll_fn(|context| {
            step += 1;
            if step > steps {
                return Poll::Ready(());
            }
            apply.as_mut().poll(context).map(|_| ())
        })
        .await;
    }
    database.store.apply(&batch).await.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM records").await, 300);
    assert_eq!(cursor(&database).await, 300);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_was_moved_away_is_unavailable_until_it_is_back() {
    let database = Database::new().await;
    let elsewhere = database.path().with_extension("elsewhere");
    fs::rename(database.path(), &elsewhere).unwrap();
    assert_unavailable(database.try_apply(&[put(ALICE, "a", 1)], 1).await);

    // Another file with the same name is not accepted, because it has another cursor.
    fs::write(database.path(), b"").unwrap();
    assert_unavailable(database.try_apply(&[put(ALICE, "a", 1)], 1).await);

    fs::rename(&elsewhere, database.path()).unwrap();
    database.try_apply(&[put(ALICE, "a", 1)], 1).await.unwrap();
}

#[tokio::test]
async fn two_stores_on_one_file_do_not_lose_each_others_rows() {
    let database = Database::new().await;
    let other = huddle_firehose::store::sqlite::SqliteStore::open(&database.url())
        .await
        .unwrap();
    let effects = [put(BOB, "b", 1)];
    let batch = WriteBatch {
        source: &source(),
        effects: &effects,
        position: Position { seq: 1, time: None },
        sequence_restarted: false,
    };
    other.apply(&batch).await.unwrap();
    database.apply(&[put(ALICE, "a", 2)]).await;
    assert_eq!(database.number("SELECT count(*) FROM records").await, 2);
}
