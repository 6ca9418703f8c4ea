//! Workers that stop and start again, and cursors that the relay cannot serve. Holds invariants
//! 3.6, 6.1 and 6.2.

use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::config::{Config, Start};
use huddle_firehose::delivery::segment::RawPosition;
use huddle_firehose::model::Position;
use huddle_firehose::source::Resume;
use huddle_firehose::source::firehose::decode::decode;
use huddle_firehose::source::interest::Interest;
use huddle_firehose::testing::mock_relay::Options;
use ipld_core::ipld;
use jiff::Timestamp;
use test_support::mock_relay::{relay, relay_with, unhurried};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, Tables, assert_same_tables};
use test_support::waiting::eventually;
use test_support::worker_runtime::Process;

/// A seq after the end of the recording.
const FUTURE_SEQ: u64 = 1_000_000;

fn time_of(frame: &Bytes) -> Timestamp {
    let decoded = decode(frame, &Interest::default()).unwrap();
    decoded
        .raw_position()
        .map(RawPosition::position)
        .unwrap()
        .time
        .unwrap()
}

fn seqs(frames: &[Bytes]) -> Vec<u64> {
    frames.iter().filter_map(|frame| seq_of(frame)).collect()
}

/// The cause of each gap, and the seqs between which events may be missing.
async fn gaps(database: &Database) -> Vec<(String, u64, Option<u64>)> {
    let mut stranger = database.stranger().await;
    let gaps = sqlx::query_as("SELECT cause, from_seq, to_seq FROM gaps ORDER BY id");
    let gaps: Vec<(String, i64, Option<i64>)> = gaps.fetch_all(&mut stranger).await.unwrap();
    let seq = |seq: i64| u64::try_from(seq).unwrap();
    gaps.into_iter()
        .map(|(cause, from, to)| (cause, seq(from), to.map(seq)))
        .collect()
}

fn without_gaps(tables: &Tables) -> Tables {
    let mut tables = tables.clone();
    tables.remove("gaps");
    tables
}

// === Stops ===

#[derive(Clone, Copy)]
enum Stop {
    Crash,
    Drain,
}

async fn assert_resumed_after(stop: Stop, inclusive: bool) {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let options = Options {
        inclusive,
        ..unhurried()
    };
    let relay = relay_with(frames.clone(), options).await;

    let process = Process::start(&relay, &database).await;
    process.worker.is_amid(60).await;
    assert_eq!(process.worker.source.asked(), [Resume::Oldest]);
    match stop {
        Stop::Crash => process.crash().await,
        Stop::Drain => {
            let received = process.drain().await;
            assert_eq!(database.cursor().await.seq, received);
        }
    }

    let cursor = database.cursor().await.seq;
    assert!(0 < cursor && cursor < end, "stopped at {cursor}");
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    // The event at the cursor is requested again, to check that the sequence is still the same.
    let asked_after = cursor - 1;
    assert_eq!(worker.source.asked(), [Resume::With(cursor)]);
    let sent_again = seqs(&frames).into_iter().filter(|&seq| {
        let is_behind = seq > asked_after;
        is_behind || (inclusive && seq == asked_after)
    });
    assert_eq!(worker.source_status().events, sent_again.count() as u64);
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

#[tokio::test]
async fn a_crash_loses_nothing_if_the_relay_sends_what_follows_the_cursor() {
    assert_resumed_after(Stop::Crash, false).await;
}

#[tokio::test]
async fn a_crash_loses_nothing_if_the_relay_sends_the_event_at_the_cursor_again() {
    assert_resumed_after(Stop::Crash, true).await;
}

#[tokio::test]
async fn a_drained_stop_leaves_nothing_to_repeat() {
    assert_resumed_after(Stop::Drain, false).await;
}

#[tokio::test]
async fn a_drained_stop_loses_nothing_if_the_relay_sends_the_event_at_the_cursor_again() {
    assert_resumed_after(Stop::Drain, true).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_repeatedly_loses_nothing() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let options = Options {
        drop_after: Some(50),
        ..Options::default()
    };
    let relay = relay_with(frames, options).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    assert_eq!(worker.source.asked()[0], Resume::Oldest);
    assert!(worker.source.asked().len() >= 7, "306 frames, 50 at a time");
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

// === Cursors ===

#[tokio::test]
async fn a_start_at_the_live_end_sends_no_cursor_and_records_a_gap() {
    let (mut before, database) = (frames(), Database::new());
    let after = before.split_off(before.len() / 2);
    let first = seq_of(&after[0]).unwrap();
    let relay = relay(before).await;
    let config = Config {
        start: Start::Live,
        ..config()
    };
    let worker = Worker::start_with(config, &relay, database.store().await).await;
    eventually("a connection", || {
        worker.source_status().disconnected_since.is_none()
            && worker.tree.context().first_connected_at().is_some()
    })
    .await;
    for frame in &after {
        relay.push(frame.clone());
    }
    worker.reaches(last_seq(&after)).await;
    assert_eq!(worker.source.asked(), [Resume::Live]);
    worker.drain().await;

    let expected = [("started_live".to_owned(), 0, Some(first))];
    assert_eq!(gaps(&database).await, expected);
    let oldest = database
        .rows("SELECT CAST(min(seq) AS TEXT) FROM records")
        .await;
    assert!(oldest[0].parse::<u64>().unwrap() >= first, "{oldest:?}");
}

#[tokio::test]
async fn a_cursor_ahead_of_the_log_is_a_gap_and_the_whole_log_is_read() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    database
        .move_cursor(Position {
            seq: FUTURE_SEQ,
            time: Some(time_of(&frames[0])),
        })
        .await;
    let relay = relay(frames).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    let expected = [Resume::With(FUTURE_SEQ), Resume::Oldest];
    assert_eq!(worker.source.asked(), expected);
    assert_eq!(relay.connections(), 2);
    worker.drain().await;

    let expected = [("future_cursor".to_owned(), FUTURE_SEQ, None)];
    assert_eq!(gaps(&database).await, expected);
    assert_same_tables(&database.tables().await, &without_gaps(undisturbed().await));
}

#[tokio::test]
async fn a_cursor_older_than_what_the_relay_holds_is_a_gap_with_both_ends() {
    let (frames, database) = (frames(), Database::new());
    let seqs = seqs(&frames);
    let (known, oldest_held) = (seqs[10], seqs[200]);
    let position = Position {
        seq: known,
        time: Some(time_of(&frames[10])),
    };
    database.move_cursor(position).await;
    let options = Options {
        window_start: Some(oldest_held),
        ..Options::default()
    };
    let relay = relay_with(frames, options).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(seqs[seqs.len() - 1]).await;
    assert_eq!(worker.source.asked(), [Resume::With(known)]);
    worker.drain().await;

    let expected = [("outdated_cursor".to_owned(), known, Some(oldest_held))];
    assert_eq!(gaps(&database).await, expected);
}

/// An empty `#identity` event of an account that is not in the recording.
fn identity(seq: u64, time: Timestamp) -> Bytes {
    let header = ipld!({ "op": 1, "t": "#identity" });
    let payload = ipld!({
        "did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa",
        "seq": seq,
        "time": time.to_string(),
    });
    let mut frame = serde_ipld_dagcbor::to_vec(&header).unwrap();
    frame.extend(serde_ipld_dagcbor::to_vec(&payload).unwrap());
    frame.into()
}

#[tokio::test]
async fn seqs_that_begin_again_are_a_gap_and_move_the_cursor_back() {
    let (new, database) = (frames(), Database::new());
    let (first, end) = (seq_of(&new[0]).unwrap(), last_seq(&new));
    let an_hour_before = time_of(&new[0]) - Duration::from_secs(3600);
    let old = (0..20).map(|n| identity(FUTURE_SEQ + n, an_hour_before));
    let relay = relay(old.collect()).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(FUTURE_SEQ + 19).await;
    assert_eq!(database.cursor().await.seq, FUTURE_SEQ + 19);

    for frame in new {
        relay.push(frame);
    }
    worker.reaches(end).await;
    worker.drain().await;
    assert_eq!(database.cursor().await.seq, end);
    let expected = [("sequence_reset".to_owned(), FUTURE_SEQ + 19, Some(first))];
    assert_eq!(gaps(&database).await, expected);
    assert_same_tables(&database.tables().await, &without_gaps(undisturbed().await));
}
