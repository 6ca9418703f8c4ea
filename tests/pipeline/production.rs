//! Sends frames of the production relay through the whole pipeline, and compares the records with
//! the output of production Jetstream for the same events.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use huddle_firehose::config::Config;
use serde_json::Value;
use test_support::mock_relay::relay;
use test_support::recorded_frames::last_seq;
use test_support::running_worker::{Worker, config};
use test_support::shared_data::shared_data;
use test_support::tables::{Database, assert_same};

/// `[u32 little-endian length][frame]…`, compressed.
fn frames(folder: &Path) -> Vec<Bytes> {
    let file = std::fs::File::open(folder.join("frames.bin.zst")).unwrap();
    let mut rest = Bytes::from(zstd::decode_all(file).unwrap());
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = rest.split_to(4);
        let length = u32::from_le_bytes(length.as_ref().try_into().unwrap());
        frames.push(rest.split_to(length as usize));
    }
    frames
}

/// Each record's last state: its CID and JSON, or `None` if it was deleted.
fn expected(folder: &Path) -> BTreeMap<String, Option<(String, Value)>> {
    let events = std::fs::read_to_string(folder.join("expected_v1.jsonl")).unwrap();
    let mut records = BTreeMap::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let commit = &event["commit"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        if !commit["collection"]
            .as_str()
            .is_some_and(|collection| collection.starts_with("app.bsky.feed."))
        {
            continue;
        }
        let uri = format!(
            "at://{}/{}/{}",
            text(&event["did"]),
            text(&commit["collection"]),
            text(&commit["rkey"])
        );
        let state = match commit["operation"].as_str().unwrap() {
            "delete" => None,
            _ => Some((text(&commit["cid"]), commit["record"].clone())),
        };
        // The events of one repository are in order.
        records.insert(uri, state);
    }
    records
}

#[tokio::test]
async fn production_frames_become_the_records_that_jetstream_made_of_them() {
    let Some(folder) = shared_data("production") else {
        return;
    };
    let (frames, database) = (frames(&folder), Database::new());
    assert_eq!(frames.len(), 150);
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let config = Config {
        collections: vec!["app.bsky.feed.*".parse().unwrap()],
        ..config()
    };
    let worker = Worker::start_with(config, &relay, database.store().await).await;
    worker.reaches(end).await;
    worker.drain().await;

    let mut stranger = database.stranger().await;
    let rows: Vec<(String, bool, Option<String>, Option<String>)> =
        sqlx::query_as("SELECT uri, deleted, cid, record FROM records")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    let found: BTreeMap<_, _> = rows
        .into_iter()
        .map(|(uri, is_deleted, cid, record)| {
            let record = record.map(|json| serde_json::from_str::<Value>(&json).unwrap());
            assert_eq!(is_deleted, record.is_none(), "{uri}");
            (uri, cid.zip(record))
        })
        .collect();
    let texts = |records: BTreeMap<String, Option<(String, Value)>>| {
        let records = records.into_iter();
        records.map(|record| format!("{record:?}")).collect()
    };
    assert_same("records", &texts(found), &texts(expected(&folder)));
    for query in ["SELECT error FROM dead_letters", "SELECT cause FROM gaps"] {
        assert_eq!(database.rows(query).await, [""; 0]);
    }
}
