//! Seqs that repeat, fall, jump or are invalid: a wrong seq costs no event, and never becomes the
//! cursor. Holds invariants 6.2 and 6.4.

use bytes::Bytes;
use huddle_firehose::atproto::skim::{seq_of, splice_seq};
use huddle_firehose::delivery::segment::RawPosition;
use huddle_firehose::source::Resume;
use huddle_firehose::source::firehose::decode::decode;
use huddle_firehose::source::interest::Interest;
use huddle_firehose::testing::mock_relay::Options;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use simulated_network::frame::{Stamp, identity, unknown};
use test_support::mock_relay::{relay, relay_with};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, undisturbed};
use test_support::tables::{Database, Tables, assert_same_tables};
use test_support::waiting::eventually;

const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const SOME: usize = 100;
/// One more than the greatest valid seq.
const END: u64 = 1 << 53;

fn stamp(seq: u64) -> Stamp {
    let time = "2026-11-23T14:54:55.329Z".to_owned();
    Stamp { seq, time }
}

/// A frame of two DAG-CBOR objects.
fn framed(header: &Ipld, payload: &Ipld) -> Bytes {
    let mut frame = serde_ipld_dagcbor::to_vec(header).unwrap();
    frame.extend(serde_ipld_dagcbor::to_vec(payload).unwrap());
    frame.into()
}

/// All tables except the cursor.
fn without_cursor(tables: &Tables) -> Tables {
    let mut tables = tables.clone();
    tables.remove("firehose_cursor");
    tables
}

/// Runs a worker on a relay of `frames` up to the seq `end`.
async fn follow(frames: Vec<Bytes>, end: u64) -> Database {
    let database = Database::new();
    let relay = relay(frames).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    worker.assert_restarted(&[]);
    worker.drain().await;
    assert_eq!(database.cursor().await.seq, end);
    database
}

#[tokio::test]
async fn seqs_outside_the_protocols_range_never_become_the_cursor() {
    let (mut all, database) = (frames(), Database::new());
    let end = last_seq(&all);
    let bad = [
        identity(stamp(END), DID, None),
        identity(stamp(u64::MAX), DID, None),
        identity(stamp(0), DID, None),
        framed(
            &ipld!({ "op": 1, "t": "#identity" }),
            &ipld!({ "did": DID, "seq": -1, "time": "2026-11-23T14:54:55Z" }),
        ),
    ];
    // Frames that are ignored do not move the cursor either.
    let ignored = [
        unknown(stamp(END), DID, 1),
        unknown(stamp(u64::MAX), DID, 7),
        framed(
            &ipld!({ "op": 1, "t": "#info" }),
            &ipld!({ "name": "Hello", "seq": END - 1 }),
        ),
    ];
    let letters = bad.len();
    let inserted = SOME..SOME + bad.len() + ignored.len();
    all.splice(SOME..SOME, bad.into_iter().chain(ignored));
    let before = seq_of(&all[SOME - 1]).unwrap();
    let options = Options {
        drop_after: Some(inserted.end as u64),
        ..Options::default()
    };
    let relay = relay_with(all, options).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    let asked = worker.source.asked();
    assert_eq!(asked[..2], [Resume::Oldest, Resume::With(before)]);
    worker.drain().await;

    assert_eq!(database.cursor().await.seq, end);
    let mut tables = database.tables().await;
    let found = tables.get_mut("dead_letters").unwrap();
    let count = found.len();
    found.retain(|row| !row.contains("'decode'"));
    assert_eq!(count - found.len(), letters);
    assert_same_tables(&tables, undisturbed().await);
}

#[tokio::test]
async fn events_that_come_twice_count_once() {
    let twice: Vec<Bytes> = frames().into_iter().flat_map(|f| [f.clone(), f]).collect();
    let end = last_seq(&twice);
    let database = follow(twice, end).await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

/// A relay that numbered one event wrongly, and says nothing about a cursor that is ahead.
#[tokio::test]
async fn what_came_while_the_worker_was_down_is_read_though_the_last_seq_was_far_ahead() {
    let (all, database) = (frames(), Database::new());
    let end = last_seq(&all);
    let stamp = Stamp {
        seq: END - 1,
        time: "9998-12-31T23:59:59Z".to_owned(),
    };
    let mut before: Vec<Bytes> = all[..SOME].to_vec();
    before.push(identity(stamp, DID, Some("odd.example")));
    let events = before.len() as u64;
    let read_before = last_seq(&all[..SOME]);
    let first = relay(before).await;
    let worker = Worker::start(&first, &database).await;
    eventually("every event", || worker.source_status().events == events).await;
    worker.drain().await;
    assert_eq!(database.cursor().await.seq, read_before);

    let second = relay(all).await;
    let worker = Worker::start(&second, &database).await;
    worker.reaches(end).await;
    assert_eq!(worker.source.asked(), [Resume::With(read_before)]);
    worker.drain().await;
    let mut found = database.tables().await;
    let accounts = found.get_mut("accounts").unwrap();
    accounts.retain(|row| !row.contains("odd.example"));
    assert_same_tables(&found, undisturbed().await);
}

#[tokio::test]
async fn a_range_of_events_that_repeats_changes_nothing() {
    let mut again = frames();
    let stretch = again[SOME / 2..SOME].to_vec();
    again.splice(SOME..SOME, stretch);
    let end = last_seq(&again);
    let database = follow(again, end).await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

#[tokio::test]
async fn a_jump_in_the_seqs_is_no_gap() {
    const LEAP: u64 = 1 << 40;
    let mut leaping = frames();
    for frame in &mut leaping[SOME..] {
        let seq = seq_of(frame).unwrap() + LEAP;
        *frame = splice_seq(frame, seq).unwrap().into();
    }
    let end = last_seq(&leaping);
    let database = follow(leaping, end).await;
    let count = "SELECT CAST(count(*) AS TEXT) FROM records";
    let records = undisturbed().await["records"].len().to_string();
    assert_eq!(database.rows(count).await, [records]);
    assert_eq!(database.rows("SELECT cause FROM gaps").await, [""; 0]);
}

/// Only the positions of such frames are kept. They show the new sequence too.
#[tokio::test]
async fn a_new_sequence_that_begins_with_unwanted_events_is_a_gap() {
    let mut all = frames();
    let end = last_seq(&all) + 100;
    all.extend((1..=end).map(unwanted_much_later));
    let (database, events) = (Database::new(), all.len() as u64);
    let relay = relay(all).await;
    let worker = Worker::start(&relay, &database).await;
    eventually("every event", || {
        let source = worker.source_status();
        source.events == events && source.applied.seq == end
    })
    .await;
    worker.drain().await;
    let causes = database.rows("SELECT cause FROM gaps").await;
    assert_eq!(causes, ["sequence_reset"]);
}

fn unwanted_much_later(seq: u64) -> Bytes {
    framed(
        &ipld!({ "op": 1, "t": "#commit" }),
        &ipld!({
            "ops": [{ "path": "app.bsky.feed.like/a" }],
            "repo": DID,
            "seq": seq,
            "time": "2026-11-24T00:00:00Z",
        }),
    )
}

/// The event counts, but it is no position.
#[tokio::test]
async fn one_seq_far_ahead_costs_no_event() {
    const AHEAD: u64 = END - 1;
    let mut odd = frames();
    let end = last_seq(&odd);
    let time = time_of(&odd[SOME]);
    let stamp = Stamp { seq: AHEAD, time };
    odd.insert(SOME, identity(stamp, DID, Some("odd.example")));
    let (database, events) = (Database::new(), odd.len() as u64);
    let relay = relay(odd).await;
    let worker = Worker::start(&relay, &database).await;
    eventually("every event", || {
        let source = worker.source_status();
        source.events == events && source.applied.seq == end
    })
    .await;
    worker.drain().await;
    let mut found = without_cursor(&database.tables().await);
    let gaps = found.remove("gaps").unwrap();
    let accounts = found.get_mut("accounts").unwrap();
    accounts.retain(|row| !row.contains("odd.example"));
    let mut expected = without_cursor(undisturbed().await);
    expected.remove("gaps");
    assert_same_tables(&found, &expected);
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(database.cursor().await.seq, end);
}

fn time_of(frame: &Bytes) -> String {
    let decoded = decode(frame, &Interest::default()).unwrap();
    let position = decoded.raw_position().map(RawPosition::position).unwrap();
    position.time.unwrap().to_string()
}
