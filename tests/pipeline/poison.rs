//! One bad record or frame becomes a dead letter; the others are applied. Holds invariants 5.1, 5.3
//! and 5.4.

use std::collections::BTreeSet;

use bytes::Bytes;
use huddle_firehose::config::Config;
use huddle_firehose::delivery::ledger::DELIVERY_FAILURE_LIMIT;
use huddle_firehose::store::WriteBatch;
use huddle_firehose::store::plan::effect::{Effect, RecordChange};
use huddle_firehose::store::plan::index_task::IndexTask;
use huddle_firehose::worker::Role;
use sqlx::Executor;
use test_support::guarded_store::Guarded;
use test_support::mock_relay::relay;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, Tables, assert_same_tables};

/// The key of a slot offer that the recording creates, in a commit of its own.
pub(crate) const POISON: &str = "3mbdbpugh7m2b";
const REFUSE: &str = "CREATE TRIGGER refuse BEFORE INSERT ON records \
                      WHEN NEW.rkey = '3mbdbpugh7m2b' \
                      BEGIN SELECT RAISE(ABORT, 'poisoned'); END";

/// Removes the rows of the poisoned record, and the chain state, which the refused commit does not
/// change.
pub(crate) fn without_poison(tables: &Tables) -> Tables {
    let rest = |rows: &BTreeSet<String>| -> BTreeSet<String> {
        let is_its_own = |row: &&String| row.contains(&format!("slotOffer/{POISON}' "));
        rows.iter()
            .filter(|row| !is_its_own(row))
            .cloned()
            .collect()
    };
    let tables = tables.iter().filter(|(table, _)| **table != "repos");
    tables.map(|(table, rows)| (*table, rest(rows))).collect()
}

#[tokio::test]
async fn a_record_that_the_database_refuses_for_good_becomes_a_dead_letter_alone() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let store = database.store().await;
    database.stranger().await.execute(REFUSE).await.unwrap();
    let config = Config {
        index_retries: 2,
        ..config()
    };
    let worker = Worker::start_with(config, &relay, store).await;
    worker.reaches(end).await;
    assert!(worker.status().queue.blocked.is_none());
    worker.drain().await;

    let mut stranger = database.stranger().await;
    let letters: Vec<(String, String, String, u32)> =
        sqlx::query_as("SELECT uri, error, task, attempts FROM dead_letters WHERE stage = 'index'")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    let [(uri, error, task, attempts)] = &letters[..] else {
        panic!("not one dead letter: {letters:#?}");
    };
    assert!(uri.ends_with(POISON), "{uri}");
    assert!(error.contains("poisoned"), "{error}");
    assert_eq!(*attempts, 3, "the first attempt and two more");
    let task: IndexTask = serde_json::from_str(task).unwrap();
    assert_eq!((&task.uri, task.attempts), (uri, 3));

    let found = without_poison(&database.tables().await);
    assert_same_tables(&found, &without_poison(undisturbed().await));
}

fn is_poisonous(effect: &Effect) -> bool {
    let Effect::Commit(commit) = effect else {
        return false;
    };
    let is_poison = |record: &RecordChange| matches!(record, RecordChange::Upsert(upsert) if upsert.version.rkey.as_str() == POISON);
    commit.records.iter().any(is_poison)
}

#[tokio::test]
async fn a_frame_that_kills_every_handler_becomes_a_dead_letter_alone() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay(frames.clone()).await;
    let store = Guarded {
        store: database.store().await,
        guard: |batch: &WriteBatch<'_>| {
            assert!(!batch.effects.iter().any(is_poisonous), "poisoned");
            Ok(())
        },
    };
    let worker = Worker::start_with(config(), &relay, store).await;
    worker.reaches(end).await;
    assert!(worker.restarts(Role::Indexer) >= DELIVERY_FAILURE_LIMIT.into());
    worker.drain().await;

    assert_poison_alone_is_missing(&frames, &database).await;
}

/// Asserts that there is one dead letter of stage `poison`, with the frame's bytes, and that all
/// other rows are as usual.
pub(crate) async fn assert_poison_alone_is_missing(frames: &[Bytes], database: &Database) {
    let mut stranger = database.stranger().await;
    let letters: Vec<(Vec<u8>, u32)> =
        sqlx::query_as("SELECT raw, attempts FROM dead_letters WHERE stage = 'poison'")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    let [(raw, DELIVERY_FAILURE_LIMIT)] = &letters[..] else {
        panic!("not one dead letter of {DELIVERY_FAILURE_LIMIT} attempts: {letters:?}");
    };
    assert_eq!(raw, poisoned_frame(frames));

    let mut found = without_poison(&database.tables().await);
    let letters = found.get_mut("dead_letters").unwrap();
    letters.retain(|row| !row.contains("'poison'"));
    assert_same_tables(&found, &without_poison(undisturbed().await));
}

/// The commit that creates the poisoned record: the first one that contains its key.
pub(crate) fn poisoned_frame(frames: &[Bytes]) -> &Bytes {
    let names_it = |frame: &&Bytes| {
        frame
            .windows(POISON.len())
            .any(|part| part == POISON.as_bytes())
    };
    frames.iter().find(names_it).unwrap()
}

#[tokio::test]
async fn frames_of_garbage_are_dead_letters_and_cost_no_other_frame() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let mut garbage = Vec::new();
    let mut mixed = Vec::new();
    for (number, frame) in frames.into_iter().enumerate() {
        mixed.push(frame);
        if number % 3 == 0 {
            garbage.push(Bytes::from(format!("\u{ff} frame {number} is none")));
            mixed.extend(garbage.last().cloned());
        }
    }
    let relay = relay(mixed).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    assert_eq!(relay.connections(), 1);
    worker.drain().await;

    let mut stranger = database.stranger().await;
    let letters: Vec<(Vec<u8>, Option<i64>)> =
        sqlx::query_as("SELECT raw, seq FROM dead_letters WHERE stage = 'decode' ORDER BY id")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    let expected: Vec<_> = garbage.iter().map(|frame| (frame.to_vec(), None)).collect();
    assert_eq!(letters, expected);
    let mut found = database.tables().await;
    let letters = found.get_mut("dead_letters").unwrap();
    letters.retain(|row| !row.contains("'decode'"));
    assert_same_tables(&found, undisturbed().await);
}
