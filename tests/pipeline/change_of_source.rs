//! The configuration names another source than before. Each source has a cursor and a sequence of
//! its own. Holds invariants 1.4 and 6.1.

use std::sync::Arc;

use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::config::{Config, Start};
use huddle_firehose::model::SourceId;
use huddle_firehose::source::Resume;
use huddle_firehose::source::Source;
use huddle_firehose::source::firehose::websocket::WebSocketOptions;
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::testing::mock_relay::MockRelay;
use test_support::mock_relay::relay;
use test_support::observed_source::Observed;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::eventually;

fn source(name: &str, relay: &MockRelay) -> Arc<Observed> {
    let id = SourceId::new(&format!("ws://{name}.test/"));
    Observed::named(id, &relay.url(), WebSocketOptions::default())
}

/// Follows `source` up to `end`. `push` is sent once it is connected.
async fn follow(
    config: Config,
    source: &Arc<Observed>,
    database: &Database,
    end: u64,
    push: impl FnOnce(),
) {
    let store = database.store().await;
    let worker = Worker::start_at(config, source.clone(), store, Faults::default()).await;
    eventually("a connection", || {
        worker.tree.context().first_connected_at().is_some()
    })
    .await;
    push();
    eventually("the end", || {
        let sources = worker.status().sources;
        let source = sources.get(source.id().as_str());
        source.is_some_and(|source| source.applied.seq == end)
    })
    .await;
    worker.drain().await;
}

/// Each cursor, in the order in which the sources were first seen, and each gap.
async fn recorded(database: &Database) -> (Vec<String>, Vec<String>) {
    let cursors = "SELECT source || ' ' || cursor FROM firehose_cursor ORDER BY rowid";
    let gaps =
        "SELECT source || ' ' || cause || ' ' || from_seq || ' ' || to_seq FROM gaps ORDER BY id";
    (database.rows(cursors).await, database.rows(gaps).await)
}

/// Its seqs are lower and its events earlier than what the first one has brought.
#[tokio::test]
async fn a_source_that_is_configured_later_has_a_sequence_of_its_own() {
    let (mut earlier, database) = (frames(), Database::new());
    let later = earlier.split_off(earlier.len() / 2);
    let (first, middle, end) = (
        seq_of(&earlier[0]).unwrap(),
        last_seq(&earlier),
        last_seq(&later),
    );
    let (one, two) = (relay(later).await, relay(earlier).await);
    let records =
        "SELECT uri || ' ' || cid || ' ' || rev FROM records WHERE deleted = 0 ORDER BY uri";

    let a = source("a", &one);
    follow(config(), &a, &database, end, || ()).await;
    let before = database.rows(records).await;
    let b = source("b", &two);
    follow(config(), &b, &database, middle, || ()).await;
    assert_eq!(b.asked(), [Resume::Oldest]);
    let cursors = |a: u64, b: u64| vec![format!("ws://a.test/ {a}"), format!("ws://b.test/ {b}")];
    let gaps = vec![format!("ws://b.test/ source_changed 0 {first}")];
    assert_eq!(
        recorded(&database).await,
        (cursors(end, middle), gaps.clone())
    );
    // Events that came later at the first source stay.
    let after = database.rows(records).await;
    assert!(before.iter().all(|record| after.contains(record)));

    // The first source is configured again, and continues at its own cursor.
    let a = source("a", &one);
    follow(config(), &a, &database, end, || ()).await;
    assert_eq!(a.asked(), [Resume::With(end)]);
    assert_eq!(recorded(&database).await, (cursors(end, middle), gaps));
}

/// What is tracked since the first source has to be compared, wherever the second one is joined.
#[tokio::test]
async fn a_source_that_is_configured_later_and_joined_at_its_live_end_is_a_change_of_source() {
    let (mut earlier, database) = (frames(), Database::new());
    let later = earlier.split_off(earlier.len() / 2);
    let (middle, first, end) = (
        last_seq(&earlier),
        seq_of(&later[0]).unwrap(),
        last_seq(&later),
    );
    let (one, two) = (relay(earlier.clone()).await, relay(earlier).await);
    follow(config(), &source("a", &one), &database, middle, || ()).await;

    let live = Config {
        start: Start::Live,
        ..config()
    };
    let b = source("b", &two);
    follow(live, &b, &database, end, || {
        for frame in later {
            two.push(frame);
        }
    })
    .await;
    assert_eq!(b.asked(), [Resume::Live]);
    let gaps = vec![format!("ws://b.test/ source_changed 0 {first}")];
    assert_eq!(recorded(&database).await.1, gaps);
}
