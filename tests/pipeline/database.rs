//! Removes, replaces, damages or slows down the database of a running worker.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use huddle_firehose::store::sqlite::{self as store, SqliteStore};
use huddle_firehose::testing::fault::{Fault, Faults, Point};
use huddle_firehose::testing::mock_relay::Options;
use sqlx::Executor;
use test_support::mock_relay::{relay_with, unhurried};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::eventually;
use test_support::worker_runtime::Process;

use crate::history::History;
use crate::store_points::Once;

/// SQLite's default.
const PAGE: u64 = 4096;
const DAMAGED: &str = "the database file is damaged";

#[tokio::test]
async fn a_removed_file_holds_the_worker_until_it_is_back() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let worker = Worker::start(&relay, &database).await;
    worker.is_amid(60).await;
    let (path, elsewhere) = (database.path(), database.folder().join("elsewhere"));

    fs::rename(&path, &elsewhere).unwrap();
    worker.is_blocked_because("No such file").await;
    assert!(!path.exists(), "an empty file in its place would be a loss");

    fs::rename(&elsewhere, &path).unwrap();
    worker.completes_recording(end, &database).await;
}

/// Only a restart reads the cursor of a replaced file.
#[tokio::test]
async fn after_a_restart_what_an_older_copy_of_the_file_lacks_is_read_again() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let history = History::recorded().await;
    let process = Process::start(&relay, &database).await;
    process.worker.is_amid(30).await;
    let backup = database.backup().await;
    process.worker.is_amid(90).await;
    database.replace_by(&backup);
    process
        .worker
        .is_blocked_because("replaced while it was open; restart")
        .await;
    process.crash().await;

    let cursor = history.assert_whole(&database).await;
    assert!(0 < cursor && cursor < end, "copied at {cursor}");
    let worker = Worker::start(&relay, &database).await;
    worker.completes_recording(end, &database).await;
}

/// Overwrites the root page of `table` with invalid bytes.
async fn damage(database: &Database, table: &'static str) {
    let root = "SELECT CAST(rootpage AS TEXT) FROM sqlite_master WHERE name = ";
    let root = sqlx::AssertSqlSafe(format!("{root}'{table}'"));
    let mut stranger = database.stranger().await;
    let root: String = sqlx::query_scalar(root)
        .fetch_one(&mut stranger)
        .await
        .unwrap();
    let page: u64 = root.parse().unwrap();
    // The log would hide the damage.
    stranger
        .execute("PRAGMA wal_checkpoint(TRUNCATE)")
        .await
        .unwrap();
    let file = fs::File::options()
        .write(true)
        .open(database.path())
        .unwrap();
    file.write_all_at(&[0xff; PAGE as usize], (page - 1) * PAGE)
        .unwrap();
}

#[tokio::test]
async fn a_damaged_page_holds_the_worker_until_a_restart_with_a_good_copy() {
    let (mut before, database) = (frames(), Database::new());
    let end = last_seq(&before);
    let after = before.split_off(before.len() / 2);
    let quiet = last_seq(&before);
    let relay = relay_with(before, Options::default()).await;
    let history = History::recorded().await;
    let process = Process::start(&relay, &database).await;
    process.worker.reaches(quiet).await;
    let backup = database.backup().await;

    damage(&database, "records").await;
    // The worker reads a cached page again only after another process has written.
    let touch = "UPDATE firehose_cursor SET cursor = cursor";
    database.stranger().await.execute(touch).await.unwrap();
    for frame in after {
        relay.push(frame);
    }
    process.worker.is_blocked_because(DAMAGED).await;
    let cursor = database.cursor().await.seq;
    assert!(quiet <= cursor && cursor < end);
    process.crash().await;
    assert_eq!(database.cursor().await.seq, cursor);

    database.replace_by(&backup);
    assert_eq!(history.assert_whole(&database).await, quiet);
    let worker = Worker::start(&relay, &database).await;
    worker.completes_recording(end, &database).await;
}

#[tokio::test]
async fn a_page_that_was_damaged_before_the_start_holds_the_worker_when_it_is_read() {
    let first_record = History::recorded().await.first("records");
    for (table, reached) in [("firehose_cursor", 0), ("records", first_record - 1)] {
        let (frames, database) = (frames(), Database::new());
        let relay = relay_with(frames, Options::default()).await;
        drop(database.store().await);
        damage(&database, table).await;
        let worker = Worker::start(&relay, &database).await;
        worker.is_blocked_because(DAMAGED).await;
        assert!(worker.source_status().applied.seq <= reached, "{table}");
    }
}

#[tokio::test]
async fn a_file_that_a_start_finds_damaged_is_refused_at_once() {
    let database = Database::new();
    drop(database.store().await);
    damage(&database, "_sqlx_migrations").await;
    let error = SqliteStore::open(&database.url()).await.unwrap_err();
    assert!(error.to_string().contains(DAMAGED), "{error}");

    let database = Database::new();
    fs::write(database.path(), "this is no database".repeat(500)).unwrap();
    let error = SqliteStore::open(&database.url()).await.unwrap_err();
    let reason = "it is not a SQLite file, or its beginning is damaged";
    assert!(error.to_string().contains(reason), "{error}");
}

/// Moves the paused clock by hand, while only the transaction is under way. Holds invariant 8.3.
async fn assert_given_up_after_its_deadline(point: Point) {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    // Without the deadline, the worker would not reach the end in the time of any test.
    let plan = Once::new(point, 9, Fault::Delay(Duration::from_secs(3600)));
    let options = store::Options {
        faults: Faults::planned(plan.clone()),
        ..store::Options::default()
    };
    let store = SqliteStore::open_with(&database.url(), options)
        .await
        .unwrap();
    let worker = Worker::start_with(config(), &relay, store).await;
    eventually("the delay", || plan.has_struck()).await;

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(16)).await;
    tokio::time::resume();
    worker.completes_recording(end, &database).await;
}

#[tokio::test]
async fn a_commit_that_is_slower_than_its_deadline_is_tried_again() {
    assert_given_up_after_its_deadline(Point::StoreCommitting).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_slower_than_its_deadline_changes_nothing_when_tried_again() {
    assert_given_up_after_its_deadline(Point::StoreCommitted).await;
}
