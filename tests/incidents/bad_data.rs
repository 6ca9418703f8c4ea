//! Incidents 6, 9, 13 and 21: frames, commits and records that are odd, invalid or not wanted.
//! Holds invariants 5.1 and 5.2.

use std::collections::BTreeMap;

use bytes::Bytes;
use huddle_firehose::testing::mock_relay::Options;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_ipld_dagcbor::de::Deserializer;
use serde_json::{Value, json};
use simulated_network::car::{address_of, read_car, write_car};
use simulated_network::frame;
use test_support::mock_relay::{relay, relay_with};
use test_support::running_worker::Worker;
use test_support::tables::Database;
use test_support::waiting::eventually;

use crate::log_builder::{ANN, BOB, LogBuilder, last_seq, numbered, offer};
use crate::{dead_letters, index, numbers};

const NOTE: &str = "com.huddle.note/1";
const OTHER: &str = "com.huddle.note/2";

fn cbor(value: &Ipld) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).unwrap()
}

/// The frame with another payload.
fn altered(frame: &[u8], alter: impl FnOnce(&mut BTreeMap<String, Ipld>)) -> Bytes {
    let mut reader = Deserializer::from_slice(frame);
    IgnoredAny::deserialize(&mut reader).unwrap();
    let mut payload = BTreeMap::deserialize(&mut reader).unwrap();
    let before = cbor(&Ipld::Map(payload.clone()));
    let header = frame.strip_suffix(&before[..]).unwrap();
    alter(&mut payload);
    [header, &cbor(&Ipld::Map(payload))].concat().into()
}

// === Incident 6 ===

#[tokio::test]
async fn incident_06_the_same_bad_frame_after_every_reconnect_is_no_loop() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    log_builder.put(ANN, NOTE, 2);
    log_builder.emit(|stamp| frame::identity(stamp, "nobody", None));
    log_builder.put(ANN, NOTE, 3);
    let (end, database) = (last_seq(&log_builder.log), Database::new());
    let options = Options {
        drop_after: Some(3),
        ..Options::default()
    };
    let relay = relay_with(log_builder.log, options).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    worker.assert_restarted(&[]);
    worker.drain().await;
    assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 3")]);
    let expected = ["decode: not a valid DID: \"nobody\""];
    assert_eq!(dead_letters(&database).await, expected);
}

#[tokio::test]
async fn incident_06_the_same_bad_frame_after_every_restart_is_one_dead_letter() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    log_builder.emit(|stamp| frame::identity(stamp, "nobody", None));
    let database = Database::new();
    let relay = relay(log_builder.log).await;
    // The cursor stays before a frame that cannot be read, until a readable one follows. The event
    // at the cursor is requested again.
    for events in [2, 2, 2] {
        let worker = Worker::start(&relay, &database).await;
        eventually("the bad frame", || worker.source_status().events == events).await;
        worker.drain().await;
        assert_eq!(dead_letters(&database).await.len(), 1);
    }
}

#[tokio::test]
async fn incident_06_an_unknown_op_is_skipped() {
    let mut log_builder = LogBuilder::new();
    for op in [i64::MIN, -2, 0, 2, 255, 256, i64::MAX] {
        log_builder.emit(|stamp| frame::unknown(stamp, ANN, op));
    }
    log_builder.put(ANN, NOTE, 1);
    let database = index(log_builder.log).await;
    assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 1")]);
    assert_eq!(dead_letters(&database).await, [""; 0]);
}

#[tokio::test]
async fn incident_06_one_invalid_record_does_not_break_its_repository() {
    let mut log_builder = LogBuilder::new();
    let [first, bad, last] = ["1", "2", "3"].map(|rkey| format!("com.huddle.slotOffer/{rkey}"));
    let mut invalid = offer("chess");
    invalid["endsAt"] = Value::Null;
    log_builder.commit(
        ANN,
        &[
            (&first, Some(offer("piano"))),
            (&bad, Some(invalid)),
            (&last, Some(offer("yoga"))),
        ],
    );
    let titles = "SELECT title FROM offers_index ORDER BY uri";
    let database = index(log_builder.log).await;
    assert_eq!(database.rows(titles).await, ["piano", "yoga"]);
    let [letter] = &dead_letters(&database).await[..] else {
        panic!("not one dead letter");
    };
    assert!(letter.starts_with("validate: endsAt"), "{letter}");
}

// === Incident 9 ===

#[tokio::test]
async fn incident_09_a_car_that_was_cut_between_two_blocks_is_not_complete() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, OTHER, 1);
    let blocks = [2, 3].map(|n| cbor(&ipld!({ "$type": "com.huddle.note", "n": n })));
    let writes = [NOTE, OTHER].into_iter().zip(blocks.clone().map(Some));
    let mut cut = log_builder.apply(ANN, writes.collect());
    let (root, mut rest) = read_car(&cut.blocks).unwrap();
    rest.remove(&address_of(&blocks[1])).unwrap();
    cut.blocks = write_car(root, &rest);
    log_builder.emit_commit(ANN, cut);

    // Here the block of the commit itself is missing.
    let mut headless = log_builder.apply(BOB, vec![(NOTE, Some(blocks[0].clone()))]);
    let (root, mut rest) = read_car(&headless.blocks).unwrap();
    rest.remove(&root).unwrap();
    headless.blocks = write_car(root, &rest);
    log_builder.emit_commit(BOB, headless);
    log_builder.put(BOB, OTHER, 4);

    let database = index(log_builder.log).await;
    // The missing records are not known, so the rows stay.
    let expected = [
        format!("ann/{NOTE} 2"),
        format!("ann/{OTHER} 1"),
        format!("bob/{OTHER} 4"),
    ];
    assert_eq!(numbers(&database).await, expected);
    let expected = [
        "decode: the record is not in the CAR",
        "decode: commit block: not in the CAR",
    ];
    assert_eq!(dead_letters(&database).await, expected);
}

// === Incident 13 ===

/// A map with one field, `n`, whose value begins with these bytes.
fn with_n(head: &[u8], rest: Vec<u8>) -> Vec<u8> {
    [&[0xa1, 0x61, b'n'], head, &rest].concat()
}

#[tokio::test]
async fn incident_13_invalid_records_are_dead_letters_and_the_others_are_kept() {
    let bad = [
        ("a float", with_n(&[0xfb, 0x3f, 0xf8], vec![0; 6])),
        ("not UTF-8", with_n(&[0x61, 0xff], vec![])),
        ("nested too deep", with_n(&[0x81; 10_000], vec![0x00])),
        ("an array without end", with_n(&[0x9b], vec![0xff; 8])),
        (
            "an array of huge length",
            with_n(&[0x9a, 0x7f], vec![0xff; 3]),
        ),
        ("a text of huge length", with_n(&[0x7b], vec![0x7f; 8])),
        ("of indefinite length", vec![0xbf, 0xff]),
        ("a key twice", vec![0xa2, 0x61, b'n', 1, 0x61, b'n', 2]),
        (
            "keys out of order",
            vec![0xa2, 0x61, b'n', 1, 0x61, b'm', 2],
        ),
        ("not a map", vec![0x81, 0x01]),
        ("bytes left over", vec![0xa0, 0x00]),
        ("nothing", vec![]),
    ];
    let paths: Vec<_> = (0..bad.len())
        .map(|n| format!("com.huddle.note/bad-{n}"))
        .collect();
    let good = cbor(&ipld!({ "$type": "com.huddle.note", "n": 1 }));
    let mut writes = vec![(NOTE, Some(good.clone()))];
    for (path, (_, block)) in paths.iter().zip(&bad) {
        writes.push((path, Some(block.clone())));
    }
    writes.push((OTHER, Some(good)));
    let mut log_builder = LogBuilder::new();
    let commit = log_builder.apply(ANN, writes);
    log_builder.emit_commit(ANN, commit);
    let database = index(log_builder.log).await;
    let expected = [format!("ann/{NOTE} 1"), format!("ann/{OTHER} 1")];
    assert_eq!(numbers(&database).await, expected);

    let mut stranger = database.stranger().await;
    for (path, (what, block)) in paths.iter().zip(&bad) {
        let letter: (Vec<u8>, String) =
            sqlx::query_as("SELECT raw, stage FROM dead_letters WHERE uri = ?")
                .bind(format!("at://{ANN}/{path}"))
                .fetch_one(&mut stranger)
                .await
                .unwrap();
        assert_eq!(letter, (block.clone(), "decode".to_owned()), "{what}");
    }
}

#[tokio::test]
async fn incident_13_odd_but_valid_data_is_kept_byte_for_byte() {
    let link = address_of(b"elsewhere");
    let odd: [(&str, Ipld, Value); 6] = [
        ("a NUL", ipld!("a\0b"), json!("a\0b")),
        (
            "a long text",
            ipld!("x".repeat(20_000)),
            json!("x".repeat(20_000)),
        ),
        ("a great number", ipld!(u64::MAX), json!(u64::MAX)),
        (
            "bytes",
            Ipld::Bytes(vec![0, 255]),
            json!({ "$bytes": "AP8" }),
        ),
        (
            "a link",
            Ipld::Link(link),
            json!({ "$link": link.to_string() }),
        ),
        (
            "other scripts",
            ipld!("\u{202e}日本\u{301}"),
            json!("\u{202e}日本\u{301}"),
        ),
    ];
    let mut log_builder = LogBuilder::new();
    for (number, (_, value, _)) in odd.iter().enumerate() {
        let record = cbor(&ipld!({ "$type": "com.huddle.note", "odd": value.clone() }));
        let path = format!("com.huddle.note/{number}");
        let commit = log_builder.apply(ANN, vec![(&path, Some(record))]);
        log_builder.emit_commit(ANN, commit);
    }
    let database = index(log_builder.log).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    let mut stranger = database.stranger().await;
    for (number, (what, value, json)) in odd.iter().enumerate() {
        let (bytes, text): (Vec<u8>, String) =
            sqlx::query_as("SELECT record_cbor, record FROM records WHERE rkey = ?")
                .bind(number.to_string())
                .fetch_one(&mut stranger)
                .await
                .unwrap();
        let expected = cbor(&ipld!({ "$type": "com.huddle.note", "odd": value.clone() }));
        assert_eq!(bytes, expected, "{what}");
        let kept: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(kept["odd"], *json, "{what}");
    }
}

#[tokio::test]
async fn incident_13_a_record_key_may_have_512_characters_and_no_more() {
    let longest = format!("com.huddle.note/{}", "k".repeat(512));
    let too_long = format!("com.huddle.note/{}", "k".repeat(513));
    let mut log_builder = LogBuilder::new();
    let writes = [&longest, &too_long].map(|path| (path.as_str(), Some(numbered(path, 1))));
    log_builder.commit(ANN, &writes);
    let database = index(log_builder.log).await;
    assert_eq!(numbers(&database).await, [format!("ann/{longest} 1")]);
    assert_eq!(dead_letters(&database).await.len(), 1);
}

#[tokio::test]
async fn incident_13_commits_of_careless_servers_are_read_and_false_ones_are_not() {
    let mut log_builder = LogBuilder::new();
    // Servers that bridge other networks write such revs. They are valid TIDs of a time long ago.
    let now = std::mem::replace(&mut log_builder.clock, 0);
    let ancient = log_builder.apply(
        ANN,
        vec![(
            NOTE,
            Some(cbor(&ipld!({
                "$type": "com.huddle.note", "n": 1,
            }))),
        )],
    );
    log_builder.clock = now;
    assert_eq!(ancient.head.rev, "2222222222222");
    log_builder.emit_commit(ANN, ancient);
    let careless = altered(log_builder.log.last().unwrap(), |payload| {
        payload.insert("since".to_owned(), ipld!(""));
        for field in ["tooBig", "rebase", "blobs", "prevData"] {
            payload.remove(field);
        }
    });
    log_builder.log = vec![careless];
    log_builder.put(ANN, OTHER, 2);
    let wrong = altered(log_builder.log.last().unwrap(), |payload| {
        payload.insert("rev".to_owned(), ipld!("not-a-tid"));
    });
    log_builder.log.pop();
    log_builder.log.push(wrong);
    log_builder.put(BOB, NOTE, 3);
    let database = index(log_builder.log).await;
    let expected = [format!("ann/{NOTE} 1"), format!("bob/{NOTE} 3")];
    assert_eq!(numbers(&database).await, expected);
    let expected = ["decode: not a valid TID: \"not-a-tid\""];
    assert_eq!(dead_letters(&database).await, expected);
}

// === Incident 21 ===

#[tokio::test]
async fn incident_21_a_namespace_ends_at_its_dot() {
    let paths = [
        NOTE,
        "com.huddlefake.note/1",
        "com.huddleNote.x/1",
        "com.hudd.le/1",
    ];
    let mut log_builder = LogBuilder::new();
    let writes = paths.map(|path| (path, Some(numbered(path, 1))));
    log_builder.commit(ANN, &writes);
    let database = index(log_builder.log).await;
    assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 1")]);
    assert_eq!(dead_letters(&database).await, [""; 0]);
}
