//! Incidents 5 and 20: cursors of other sequences, and missing numbers. Holds invariants 6.1, 6.2
//! and 6.4.

use huddle_firehose::atproto::skim::{seq_of, splice_seq};
use huddle_firehose::config::{Config, Start};
use huddle_firehose::model::Position;
use huddle_firehose::source::Resume;
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::testing::mock_relay::Options;
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use test_support::mock_relay::{relay, relay_with};
use test_support::observed_source::Observed;
use test_support::running_worker::{Worker, config};
use test_support::scripted_server::{Request, Server};
use test_support::tables::Database;
use test_support::waiting::eventually;

use crate::log_builder::{ANN, BOB, LogBuilder, last_seq};
use crate::{index, numbers};

/// Makes notes of `did` with these numbers.
fn notes(did: &str, numbers: std::ops::RangeInclusive<u64>) -> LogBuilder {
    let mut log_builder = LogBuilder::new();
    for n in numbers {
        log_builder.put(did, &format!("com.huddle.note/{n}"), n);
    }
    log_builder
}

async fn gaps(database: &Database) -> Vec<String> {
    database.rows("SELECT cause FROM gaps ORDER BY id").await
}

/// Runs a worker like the service, whose source has its URL as id, up to `end`.
async fn follow(url: &str, database: &Database, end: u64) {
    let config = Config {
        source_url: url.parse().unwrap(),
        database_url: database.url(),
        ..config()
    };
    let id = worker::source(&(&config).into()).unwrap().id().to_string();
    let tree: RunningWorker = worker::start((&config).into(), None).await.unwrap();
    eventually(&format!("{end} of {url}"), || {
        let status = tree.context().status.snapshot();
        let source = status.sources.get(&id);
        source.is_some_and(|source| source.applied.seq == end)
    })
    .await;
    tree.drain().await.unwrap();
}

#[tokio::test]
async fn incident_05_ports_and_paths_of_one_host_have_cursors_of_their_own() {
    let database = Database::new();
    let long = relay(notes(ANN, 1..=9).log).await;
    // All of its seqs are below the cursor of the first.
    let short = relay(notes(BOB, 1..=3).log).await;
    let elsewhere = format!("{}/elsewhere", short.url());
    follow(&long.url(), &database, 9).await;
    follow(&short.url(), &database, 3).await;
    assert_eq!(numbers(&database).await.len(), 12);
    follow(&elsewhere, &database, 3).await;
    follow(&long.url(), &database, 9).await;

    let cursors = database
        .rows("SELECT source || ' ' || cursor FROM firehose_cursor ORDER BY rowid")
        .await;
    let expected = [(long.url(), 9), (short.url(), 3), (elsewhere, 3)];
    assert_eq!(cursors, expected.map(|(url, seq)| format!("{url} {seq}")));
}

#[tokio::test]
async fn incident_05_the_oldest_event_and_the_live_end_have_different_requests() {
    for (start, request) in [
        (Start::Oldest, "GET /?cursor=0 HTTP/1.1"),
        (Start::Live, "GET / HTTP/1.1"),
    ] {
        let server = Server::start(async |request: Request| {
            request.serve(&[]).await;
        })
        .await;
        let source = Observed::at_url(&server.url("/"));
        let (database, config) = (Database::new(), Config { start, ..config() });
        let store = database.store().await;
        let worker = Worker::start_at(config, source, store, Faults::default()).await;
        eventually("a connection", || !server.heads().is_empty()).await;
        worker.drain().await;
        assert_eq!(server.request_lines(), [request]);
    }
}

#[tokio::test]
async fn incident_05_a_relay_may_send_the_event_at_the_cursor_again_or_not() {
    for inclusive in [true, false] {
        let log = notes(ANN, 1..=20).log;
        let (end, database) = (last_seq(&log), Database::new());
        // So few events in a connection that almost every event is at a cursor.
        let options = Options {
            inclusive,
            drop_after: Some(2),
            ..Options::default()
        };
        let relay = relay_with(log, options).await;
        let worker = Worker::start(&relay, &database).await;
        worker.reaches(end).await;
        worker.drain().await;
        assert_eq!(numbers(&database).await.len(), 20, "inclusive: {inclusive}");
        assert_eq!(gaps(&database).await, [""; 0], "inclusive: {inclusive}");
    }
}

#[tokio::test]
async fn incident_05_a_future_cursor_is_refused_once_and_leaves_a_gap() {
    const FUTURE: u64 = 1_000_000;
    let database = Database::new();
    database
        .move_cursor(Position {
            seq: FUTURE,
            time: None,
        })
        .await;
    let relay = relay(notes(ANN, 1..=9).log).await;
    let expected: [&[Resume]; 2] = [
        &[Resume::With(FUTURE), Resume::Oldest],
        // A restart does not start over again.
        &[Resume::With(9)],
    ];
    for asked in expected {
        let worker = Worker::start(&relay, &database).await;
        eventually("the end", || worker.source_status().applied.seq == 9).await;
        eventually("a request", || worker.source.asked() == asked).await;
        worker.drain().await;
        assert_eq!(gaps(&database).await, ["future_cursor"]);
        assert_eq!(numbers(&database).await.len(), 9);
    }
}

#[tokio::test]
async fn incident_05_the_same_events_under_new_numbers_change_nothing() {
    const ELSEWHERE: u64 = 9_000_000_000;
    let mut log_builder = notes(ANN, 1..=9);
    log_builder.delete(ANN, "com.huddle.note/4");
    // Several accounts have to agree that the seqs are others.
    log_builder.put(BOB, "com.huddle.note/1", 1);
    let (log, database) = (log_builder.log.clone(), Database::new());
    crate::index_into(&database, config(), log).await;
    let before = database.tables().await;

    // The name of the relay now belongs to another relay, which has the same events and a few more.
    log_builder.put(ANN, "com.huddle.note/10", 10);
    let renumbered = log_builder.log.iter().map(|frame| {
        let seq = seq_of(frame).unwrap() + ELSEWHERE;
        splice_seq(frame, seq).unwrap().into()
    });
    crate::index_into(&database, config(), renumbered.collect()).await;
    let after = database.tables().await;
    let added: Vec<_> = after["records"].difference(&before["records"]).collect();
    assert_eq!(added.len(), 1);
    assert!(added[0].contains("com.huddle.note/10"));
    assert!(before["records"].is_subset(&after["records"]));
}

#[tokio::test]
async fn incident_20_numbers_that_are_left_out_are_no_gap() {
    let mut log_builder = notes(ANN, 1..=3);
    // The account's events are erased from the log. Only its deletion is left.
    log_builder.next_seq += 1000;
    log_builder.account(ANN, Some("deleted"));
    log_builder.next_seq += 1;
    log_builder.put(BOB, "com.huddle.note/1", 1);
    let database = index(log_builder.log).await;
    assert_eq!(gaps(&database).await, [""; 0]);
    assert_eq!(numbers(&database).await, ["bob/com.huddle.note/1 1"]);
}
