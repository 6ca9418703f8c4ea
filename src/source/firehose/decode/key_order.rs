//! Properties of frames whose maps have their keys in any order.

use std::collections::BTreeMap;

use fastrand::Rng;
use ipld_core::{ipld, ipld::Ipld};
use proptest::prelude::*;

use super::properties::any_value;
use super::sample::{CommitFrame, DID, TIME, frame};
use super::{Decoded, Peek, decode, peek};
use crate::atproto::skim::skim;
use crate::delivery::segment::RawPosition;
use crate::source::interest::Interest;

/// One frame of each kind, as servers of the reference implementation write it.
fn frames() -> Vec<Vec<u8>> {
    let of = |t: &str, payload: Ipld| frame(t, &payload);
    let error = [
        ipld!({ "op": -1 }),
        ipld!({ "error": "ConsumerTooSlow", "message": "read faster" }),
    ];
    vec![
        CommitFrame::default()
            .create("com.huddle.booking/a", &ipld!({ "status": "confirmed" }))
            .delete("com.huddle.slotOffer/c")
            .bytes(),
        CommitFrame::default()
            .create("app.bsky.feed.like/a", &ipld!({}))
            .bytes(),
        of(
            "#account",
            ipld!({ "seq": 9, "did": DID, "time": TIME, "active": false, "status": "takendown" }),
        ),
        of(
            "#identity",
            ipld!({ "seq": 9, "did": DID, "time": TIME, "handle": "ann.example" }),
        ),
        of(
            "#handle",
            ipld!({ "seq": 9, "did": DID, "time": TIME, "handle": "ann.example" }),
        ),
        of("#tombstone", ipld!({ "seq": 9, "did": DID, "time": TIME })),
        of(
            "#sync",
            ipld!({ "seq": 9, "did": DID, "rev": "3jzfcijpj2z2a", "time": TIME,
                    "blocks": Ipld::Bytes(b"car".to_vec()) }),
        ),
        of(
            "#info",
            ipld!({ "name": "OutdatedCursor", "message": "some are gone" }),
        ),
        of("#weather", ipld!({ "seq": 9, "sun": true })),
        error.iter().flat_map(cbor).collect(),
    ]
}

fn cbor(value: &Ipld) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).unwrap()
}

/// The header and the payload of a frame.
fn maps(frame: &[u8]) -> [BTreeMap<String, Ipld>; 2] {
    let mut rest = frame;
    [(), ()].map(|()| serde_ipld_dagcbor::de::from_reader_once(&mut rest).unwrap())
}

/// Encodes the maps of an envelope in a random order of keys.
struct Shuffled {
    random: Rng,
    /// Keys that no reader knows, added to every map.
    unknown: BTreeMap<String, Ipld>,
    /// One key of this map comes twice: 0 is the header, 1 the payload, then the operations.
    repeated: Option<usize>,
    maps: usize,
}

impl Shuffled {
    fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            unknown: BTreeMap::new(),
            repeated: None,
            maps: 0,
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Vec<u8> {
        let maps = maps(frame);
        maps.iter().flat_map(|map| self.map(map)).collect()
    }

    fn map(&mut self, map: &BTreeMap<String, Ipld>) -> Vec<u8> {
        let is_repeated = self.repeated == Some(self.maps);
        self.maps += 1;
        let mut pairs = Vec::new();
        for (key, value) in map.iter().chain(&self.unknown.clone()) {
            let value = match (key.as_str(), value) {
                ("ops", Ipld::List(ops)) => self.operations(ops),
                _ => cbor(value),
            };
            pairs.push([cbor(&Ipld::String(key.clone())), value].concat());
        }
        if is_repeated {
            let again = self.random.choice(&pairs).unwrap().clone();
            pairs.push(again);
        }
        self.random.shuffle(&mut pairs);
        assert!(pairs.len() < 24, "the head is one byte");
        let head = vec![0xa0 + pairs.len() as u8];
        [head].into_iter().chain(pairs).flatten().collect()
    }

    fn operations(&mut self, ops: &[Ipld]) -> Vec<u8> {
        let mut bytes = vec![0x80 + ops.len() as u8];
        for op in ops {
            let Ipld::Map(op) = op else { panic!("{op:?}") };
            bytes.extend(self.map(op));
        }
        bytes
    }
}

fn interest() -> Interest {
    Interest::new(["com.huddle.*".parse().unwrap()])
}

fn decoded(frame: &[u8]) -> Decoded<'_> {
    decode(frame, &interest()).unwrap()
}

fn owned(raw: RawPosition<'_>) -> (u64, Option<String>) {
    (raw.seq, raw.time.map(str::to_owned))
}

/// The position of a frame that the prefilter skips.
fn skipped(frame: &[u8]) -> Option<(u64, Option<String>)> {
    match peek(frame, &interest()) {
        Peek::Unwanted(position) => Some(owned(position)),
        Peek::Kept { .. } | Peek::Unplaced => None,
    }
}

fn assert_same(found: &[u8], expected: &[u8]) {
    let (of_found, of_expected) = (decoded(found), decoded(expected));
    assert_eq!(of_found.content, of_expected.content);
    assert_eq!(of_found.kind, of_expected.kind);
    let position = |decoded: &Decoded<'_>| decoded.raw_position().map(owned);
    assert_eq!(position(&of_found), position(&of_expected));
    assert_eq!(skipped(found), skipped(expected));
}

proptest! {
    #[test]
    fn the_order_of_keys_does_not_change_what_a_frame_says(seed in any::<u64>()) {
        for frame in frames() {
            assert_same(&Shuffled::new(seed).frame(&frame), &frame);
        }
    }

    #[test]
    fn unknown_keys_are_passed_by_wherever_they_are(
        seed in any::<u64>(),
        unknown in prop::collection::btree_map("x[a-z]{0,6}", any_value(), 1..4),
    ) {
        for frame in frames() {
            let mut shuffled = Shuffled { unknown: unknown.clone(), ..Shuffled::new(seed) };
            assert_same(&shuffled.frame(&frame), &frame);
        }
    }

    #[test]
    fn a_repeated_key_is_refused_by_every_reader(seed in any::<u64>()) {
        for frame in frames() {
            let mut whole = Shuffled::new(seed);
            whole.frame(&frame);
            for repeated in 0..whole.maps {
                let mut shuffled = Shuffled { repeated: Some(repeated), ..Shuffled::new(seed) };
                let frame = shuffled.frame(&frame);
                prop_assert!(skim(&frame).is_err(), "map {repeated}");
                prop_assert!(decode(&frame, &interest()).is_err(), "map {repeated}");
                prop_assert_eq!(skipped(&frame), None);
            }
        }
    }
}
