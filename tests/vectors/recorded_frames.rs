//! Tests the decoder with recorded frames of the reference server.

use std::collections::BTreeMap;

use huddle_firehose::atproto::event::{Change, Event};
use huddle_firehose::atproto::skim::Kind;
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use test_support::record_json::dag_cbor_to_json;
use test_support::shared_data::shared_recording;

/// `[u32 big-endian length][frame]…`
fn recording(name: &str) -> Option<Vec<Vec<u8>>> {
    let bytes = std::fs::read(shared_recording(name)?).unwrap();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = behind;
    }
    Some(frames)
}

fn interest(patterns: &[&str]) -> Interest {
    Interest::new(patterns.iter().map(|pattern| pattern.parse().unwrap()))
}

#[test]
fn a_whole_network_is_decoded_without_an_error() {
    let Some(frames) = recording("frames-small.bin") else {
        return;
    };
    let everything = interest(&["*"]);
    let mut kinds = BTreeMap::<&str, usize>::new();
    for frame in &frames {
        let decoded = decode(frame, &everything).unwrap();
        *kinds.entry(decoded.kind.unwrap().as_str()).or_default() += 1;
        let Content::Event(Event::Commit(commit)) = decoded.content else {
            continue;
        };
        for op in &commit.ops {
            match &op.change {
                Change::Put { record, .. } => {
                    let json = dag_cbor_to_json(record).unwrap();
                    assert!(json.is_object());
                }
                Change::Delete => {}
                Change::Broken { reason, .. } | Change::Missing { reason, .. } => {
                    panic!("seq {}: {reason}", commit.seq)
                }
            }
        }
    }
    let expected = [
        ("account", 29),
        ("commit", 228),
        ("identity", 26),
        ("sync", 23),
    ];
    assert_eq!(kinds, expected.into());
}

#[test]
fn the_three_huddle_collections_are_distinguished_from_similar_names() {
    let Some(frames) = recording("frames-small.bin") else {
        return;
    };
    let wanted = |patterns: &[&str]| {
        let interest = interest(patterns);
        frames
            .iter()
            .map(|frame| decode(frame, &interest).unwrap())
            .filter(|decoded| {
                decoded.kind == Some(Kind::Commit) && decoded.content != Content::Unwanted
            })
            .count()
    };
    let three = [
        "com.huddle.booking",
        "com.huddle.bookingRequest",
        "com.huddle.slotOffer",
    ];
    let near = ["com.huddle.profile", "com.huddle.slotOfferV2"];
    let fake = ["com.huddlefake.*"];
    assert_eq!(wanted(&three), 78);
    assert!(wanted(&near) > 0);
    assert!(wanted(&fake) > 0);
    assert_eq!(
        wanted(&["com.huddle.*"]),
        wanted(&[three.as_slice(), near.as_slice()].concat())
    );
}

#[test]
fn the_error_frames_of_the_server_are_decoded() {
    let last = |name| Some(recording(name)?.pop().unwrap());
    let nothing = Interest::default();
    for (name, expected) in [
        ("frames-future-cursor.bin", "FutureCursor"),
        ("frames-consumer-too-slow.bin", "ConsumerTooSlow"),
    ] {
        let Some(frame) = last(name) else { return };
        let content = decode(&frame, &nothing).unwrap().content;
        assert!(
            matches!(content, Content::Error { name, .. } if name == expected),
            "{content:?}"
        );
    }
    let Some(frame) = last("frames-outdated-cursor.bin") else {
        return;
    };
    let content = decode(&frame, &nothing).unwrap().content;
    assert!(
        matches!(&content, Content::Event(Event::Info(info)) if info.name == "OutdatedCursor"),
        "{content:?}"
    );
}
