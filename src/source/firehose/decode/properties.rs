//! Properties that hold for skimming and decoding any frame.

use std::collections::BTreeMap;

use ipld_core::{ipld, ipld::Ipld};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Deserialize;

use super::sample::{CommitFrame, DID, TIME, frame};
use super::{Content, Peek, RawPosition, decode, peek};
use crate::atproto::car::is_address_of;
use crate::atproto::datetime::parse_datetime;
use crate::atproto::event::{Change, Event};
use crate::atproto::skim::{Envelope, Kind, Skim, UnknownFrame, seq_of, skim, splice_seq};
use crate::source::interest::Interest;

/// The whole envelope of a commit, as serde reads it.
#[derive(Debug, Deserialize, PartialEq)]
struct Oracle {
    seq: u64,
    repo: String,
    rev: Option<String>,
    time: Option<String>,
    ops: Vec<OracleOp>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct OracleOp {
    path: String,
}

impl Oracle {
    fn of_payload(payload: &[u8]) -> Option<Self> {
        serde_ipld_dagcbor::from_slice(payload).ok()
    }

    /// The same from a skim; `None` if a field that serde requires is missing.
    fn of_envelope(envelope: &Envelope<'_>) -> Option<Self> {
        Some(Self {
            seq: envelope.seq?,
            repo: envelope.did?.to_owned(),
            rev: envelope.rev.map(str::to_owned),
            time: envelope.time.map(str::to_owned),
            ops: envelope
                .paths()
                .map(|path| OracleOp {
                    path: path.to_owned(),
                })
                .collect(),
        })
    }
}

fn everything() -> Interest {
    Interest::new(["*".parse().unwrap()])
}

fn wanted_commit() -> Vec<u8> {
    CommitFrame::default()
        .create("com.huddle.booking/a", &ipld!({ "status": "confirmed" }))
        .update(
            "com.huddle.booking/b",
            &ipld!({ "tags": ["x", { "y": 1 }] }),
        )
        .delete("com.huddle.slotOffer/c")
        .bytes()
}

pub(super) fn any_value() -> impl Strategy<Value = Ipld> {
    let leaf = prop_oneof![
        Just(Ipld::Null),
        any::<bool>().prop_map(Ipld::Bool),
        any::<i64>().prop_map(|n| Ipld::Integer(n.into())),
        (-1e300..1e300).prop_map(Ipld::Float),
        any::<String>().prop_map(Ipld::String),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Ipld::Bytes),
    ];
    leaf.prop_recursive(4, 20, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Ipld::List),
            prop::collection::btree_map(any::<String>(), inner, 0..5).prop_map(Ipld::Map),
        ]
    })
}

prop_compose! {
    /// A `#commit` of any shape that serde accepts, with unknown fields.
    fn any_commit()(
        seq in any::<u64>(),
        repo in any::<String>(),
        rev in any::<String>(),
        paths in prop::collection::vec(any::<String>(), 0..6),
        unknown in prop::collection::btree_map("[a-z]{6,9}", any_value(), 0..4),
        unknown_of_op in any_value(),
    ) -> Vec<u8> {
        let ops = paths.iter().map(|path| {
            ipld!({ "path": path.as_str(), "cid": null, "unknown": unknown_of_op.clone() })
        });
        let mut payload: BTreeMap<String, Ipld> = unknown;
        payload.extend([
            ("seq".to_owned(), Ipld::Integer(seq.into())),
            ("repo".to_owned(), repo.into()),
            ("rev".to_owned(), rev.into()),
            ("time".to_owned(), TIME.to_owned().into()),
            ("ops".to_owned(), Ipld::List(ops.collect())),
        ]);
        frame("#commit", &Ipld::Map(payload))
    }
}

prop_compose! {
    /// A frame of any kind, known or not, with fields that may be missing or of any type.
    fn any_frame()(
        t in prop::sample::select(vec![
            Some("#account"), Some("#commit"), Some("#handle"), Some("#identity"), Some("#info"),
            Some("#sync"), Some("#tombstone"), Some("#weather"), None,
        ]),
        op in prop::sample::select(vec![1, 1, 1, -1, 2]),
        seq in prop::option::weighted(0.9, prop_oneof![1..100_u64, any::<u64>()]),
        usual in prop::sample::subsequence(USUAL_FIELDS.to_vec(), 0..=USUAL_FIELDS.len()),
        unusual in prop::collection::btree_map("did|seq|rev|time|ops|error|[a-z]{1,9}", any_value(), 0..3),
    ) -> Vec<u8> {
        let text = |(name, value): (&str, &str)| (name.to_owned(), Ipld::from(value));
        let mut header = BTreeMap::from([("op".to_owned(), Ipld::Integer(op))]);
        header.extend(t.map(|t| text(("t", t))));
        let mut payload: BTreeMap<String, Ipld> = usual.into_iter().map(text).collect();
        payload.insert("active".to_owned(), Ipld::Bool(true));
        payload.extend(seq.map(|seq| ("seq".to_owned(), Ipld::Integer(seq.into()))));
        payload.extend(unusual);
        [Ipld::Map(header), Ipld::Map(payload)]
            .iter()
            .flat_map(|map| serde_ipld_dagcbor::to_vec(map).unwrap())
            .collect()
    }
}

/// Valid text fields of all kinds.
const USUAL_FIELDS: [(&str, &str); 8] = [
    ("did", DID),
    ("error", "ConsumerTooSlow"),
    ("handle", "ann.example"),
    ("name", "OutdatedCursor"),
    ("repo", DID),
    ("rev", "3jzfcijpj2z2a"),
    ("status", "takendown"),
    ("time", TIME),
];

/// A change to a frame, as a faulty or malicious sender could make it.
#[derive(Clone, Debug)]
enum Damage {
    Cut(Index),
    Insert(Index, u8),
    Overwrite(Index, u8),
    Remove(Index),
}

fn any_damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Overwrite(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(mut frame: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for one in damage {
        if frame.is_empty() {
            break;
        }
        match one {
            Damage::Cut(at) => frame.truncate(at.index(frame.len())),
            Damage::Insert(at, byte) => frame.insert(at.index(frame.len()), *byte),
            Damage::Overwrite(at, byte) => {
                let at = at.index(frame.len());
                frame[at] = *byte;
            }
            Damage::Remove(at) => {
                frame.remove(at.index(frame.len()));
            }
        }
    }
    frame
}

proptest! {
    #[test]
    fn a_skim_agrees_with_a_full_decode(frame in any_commit()) {
        let Ok(Skim::Message(envelope)) = skim(&frame) else {
            panic!("a valid commit was refused");
        };
        let oracle = Oracle::of_payload(envelope.payload(&frame));
        prop_assert!(oracle.is_some());
        prop_assert_eq!(Oracle::of_envelope(&envelope), oracle);
    }

    #[test]
    fn on_a_damaged_frame_skim_and_serde_never_contradict_each_other(
        frame in any_commit(),
        damage in any_damage(),
    ) {
        let frame = damaged(frame, &damage);
        if let Ok(Skim::Message(envelope)) = skim(&frame)
            && envelope.kind == Kind::Commit
            && let Some(oracle) = Oracle::of_payload(envelope.payload(&frame))
        {
            prop_assert_eq!(Oracle::of_envelope(&envelope), Some(oracle));
        }
    }

    #[test]
    fn skim_and_decode_agree_on_every_kind_of_frame(frame in any_frame()) {
        let decoded = decode(&frame, &everything());
        let skimmed = match skim(&frame) {
            Ok(skimmed) => skimmed,
            Err(skimmed) => {
                let refused = decoded.unwrap_err();
                prop_assert_eq!(
                    (refused.kind, refused.seq, refused.did),
                    (skimmed.kind, skimmed.seq, skimmed.did)
                );
                return Ok(());
            }
        };
        let Ok(decoded) = decoded else {
            prop_assert!(matches!(skimmed, Skim::Message(_)), "there is no more to refuse in others");
            return Ok(());
        };
        prop_assert_eq!(decoded.seq, seq_of(&frame));
        match (skimmed, decoded.content) {
            (Skim::Error { name, message }, content) => {
                prop_assert_eq!(content, Content::Error { name, message });
            }
            (Skim::Unknown(UnknownFrame { op, t, .. }), content) => {
                prop_assert_eq!(content, Content::Unknown { op, t });
            }
            (Skim::Message(envelope), Content::Event(event)) => {
                prop_assert_eq!(decoded.kind, Some(envelope.kind));
                let expected = decoded.seq.zip(envelope.time.and_then(|time| parse_datetime(time).ok()));
                let position = event.position().map(|position| (position.seq, position.time.unwrap()));
                prop_assert_eq!(position, expected);
                let did = match event {
                    Event::Account(account) => account.did,
                    Event::Commit(commit) => commit.did,
                    Event::Identity(identity) => identity.did,
                    Event::Sync(sync) => sync.did,
                    Event::Info(_) => return Ok(()),
                };
                prop_assert_eq!(Some(did.as_str()), envelope.did);
            }
            (Skim::Message(envelope), content) => {
                prop_assert_eq!(content, Content::Unwanted);
                prop_assert!(envelope.paths().all(|path| !everything().wants_path(path)));
            }
        }
    }

    #[test]
    fn the_prefilter_skips_exactly_what_a_decoder_finds_unwanted(
        frame in prop_oneof![any_frame(), any_commit(), Just(wanted_commit())],
        damage in prop::option::of(any_damage()),
        pattern in prop::sample::select(vec!["com.huddle.*", "com.huddle.slotOffer", "org.example.*"]),
    ) {
        let frame = damage.map_or(frame.clone(), |damage| damaged(frame, &damage));
        let interest = Interest::new([pattern.parse().unwrap()]);
        let decoded = decode(&frame, &interest).ok();
        let found = decoded.filter(|decoded| decoded.content == Content::Unwanted);
        let owned = |raw: RawPosition<'_>| (raw.seq, raw.time.map(str::to_owned));
        let skipped = match peek(&frame, &interest) {
            Peek::Unwanted(position) => Some(position),
            Peek::Kept { .. } | Peek::Unplaced => None,
        };
        prop_assert_eq!(
            skipped.map(owned),
            found.and_then(|decoded| decoded.raw_position()).map(owned)
        );
    }

    #[test]
    fn a_damaged_commit_never_panics_and_never_yields_a_false_record(damage in any_damage()) {
        let original = wanted_commit();
        let frame = damaged(original.clone(), &damage);
        let everything = everything();
        let Ok(decoded) = decode(&frame, &everything) else {
            return Ok(());
        };
        if let Content::Event(Event::Commit(commit)) = decoded.content {
            for op in &commit.ops {
                if let Change::Put { cid, record, .. } = &op.change {
                    prop_assert!(is_address_of(cid, record));
                }
            }
        }
        if let Some(seq) = decoded.seq {
            prop_assert_eq!(splice_seq(&frame, seq).unwrap(), frame);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &everything());
        let header = frame("#commit", &Ipld::Map(BTreeMap::new()));
        let behind_header = [&header[..header.len() - 1], &bytes].concat();
        let _ = decode(&behind_header, &everything());
    }
}
