//! A valid `#commit` with operations and records that may be invalid. Each operation is accepted or
//! refused independently of the others.

use std::collections::HashMap;

use crate::record_json::dag_cbor_to_json;
use cid::Cid;
use huddle_firehose::atproto::event::{Change, Commit, Event};
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use ipld_core::{ipld, ipld::Ipld};
use simulated_network::car::{Blocks, address_of, encode, write_car};

use super::record::check_effects;

const DID: &str = "did:plc:ann";
const REV: &str = "3jzfcijpj2z2a";
/// The largest number of operations in a commit.
const MAX_OPS: usize = 200;

/// An operation, and the block in the CAR for it.
struct Op<'a> {
    action: &'static str,
    path: String,
    /// The record that the operation names.
    record: Option<&'a [u8]>,
    block: Block,
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    Right,
    Missing,
    /// The CAR has another block under the record's CID.
    Wrong,
}

pub fn check(script: &[u8]) {
    let ops: Vec<Op<'_>> = std::iter::successors(Op::read(script), |(_, rest)| Op::read(rest))
        .map(|(op, _)| op)
        .collect();
    let blocks = blocks(&ops);
    let frame = frame(&ops, &blocks);
    let interest = Interest::new(["com.huddle.*".parse().expect("a pattern")]);
    let wanted = last_wanted(&ops, &interest);
    match decode(&frame, &interest) {
        Err(error) => assert!(!wanted.is_empty() && ops.len() > MAX_OPS, "{error}"),
        Ok(decoded) => match decoded.content {
            Content::Unwanted => assert!(wanted.is_empty()),
            Content::Event(Event::Commit(commit)) => {
                check_ops(&commit, &wanted, &blocks);
                check_effects(&commit);
            }
            other => panic!("not a commit: {other:?}"),
        },
    }
}

fn check_ops(commit: &Commit, wanted: &HashMap<&str, &Op<'_>>, blocks: &Blocks) {
    assert_eq!(commit.ops.len() + commit.misnamed.len(), wanted.len());
    for op in &commit.ops {
        let path = format!("{}/{}", op.collection, op.rkey);
        let asked = wanted[path.as_str()];
        let expected = asked.valid_record(blocks);
        match (&op.change, expected) {
            (
                Change::Put {
                    action,
                    record,
                    cid,
                },
                Some(expected),
            ) => {
                assert_eq!(format!("{action:?}").to_lowercase(), asked.action);
                assert_eq!(record, expected);
                assert_eq!(*cid, address_of(expected));
            }
            (Change::Delete, None) => assert_eq!(asked.action, "delete"),
            (Change::Broken { reason, .. } | Change::Missing { reason, .. }, None) => {
                assert!(!reason.is_empty());
            }
            (change, expected) => panic!("{path}: {change:?}, not {expected:?}"),
        }
    }
}

/// Only the last of several operations on one path counts.
fn last_wanted<'a, 'b>(ops: &'a [Op<'b>], interest: &Interest) -> HashMap<&'a str, &'a Op<'b>> {
    let wanted = ops.iter().filter(|op| interest.wants_path(&op.path));
    wanted.map(|op| (op.path.as_str(), op)).collect()
}

impl<'a> Op<'a> {
    /// The operation at the beginning of `script`, and the rest; `None` at the end.
    fn read(script: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[kind, collection, key_length, high, low], rest) = script.split_first_chunk()?;
        let (key, rest) = rest.split_at(usize::from(key_length).min(rest.len()));
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (record, rest) = rest.split_at(length.min(rest.len()));
        let collection = match collection % 6 {
            0 => "com.huddle.booking",
            1 => "com.huddle.bookingRequest",
            2 => "com.huddle.slotOffer",
            3 => "com.huddle.with-a-hyphen",
            4 => "com.huddlefake.booking",
            _ => "com.huddle.a/b",
        };
        let action = ["create", "update", "delete", "rename"][usize::from(kind % 4)];
        let names_record = kind & 0x40 == 0;
        let op = Self {
            action,
            path: format!("{collection}/{}", String::from_utf8_lossy(key)),
            record: (names_record && action != "delete").then_some(record),
            block: match kind & 0x30 {
                0x10 => Block::Missing,
                0x20 => Block::Wrong,
                _ => Block::Right,
            },
        };
        Some((op, rest))
    }

    fn cid(&self) -> Option<Cid> {
        self.record.map(address_of)
    }

    /// The record, if the operation writes one, the CAR contains it, and it is a map of the data
    /// model.
    fn valid_record(&self, blocks: &Blocks) -> Option<&'a [u8]> {
        let writes = matches!(self.action, "create" | "update");
        let record = self.record.filter(|_| writes)?;
        let is_there = blocks
            .get(&address_of(record))
            .is_some_and(|block| block == record);
        let is_map = dag_cbor_to_json(record).is_ok_and(|json| json.is_object())
            && record.first().is_some_and(|head| head >> 5 == 5);
        (is_there && is_map).then_some(record)
    }
}

/// The blocks of the CAR. If two operations name the same record with different blocks, the later
/// one decides.
fn blocks(ops: &[Op<'_>]) -> Blocks {
    let mut blocks = Blocks::new();
    for op in ops {
        let Some(record) = op.record else { continue };
        let cid = address_of(record);
        match op.block {
            Block::Missing => blocks.remove(&cid),
            Block::Right => blocks.insert(cid, record.to_vec()),
            Block::Wrong => blocks.insert(cid, [record, b"!"].concat()),
        };
    }
    blocks
}

fn frame(ops: &[Op<'_>], blocks: &Blocks) -> Vec<u8> {
    let block = encode(&ipld!({
        "did": DID,
        "rev": REV,
        "sig": Ipld::Bytes(vec![0; 64]),
        "data": Ipld::Link(address_of(b"the tree")),
        "prev": null,
        "version": 3,
    }));
    let commit = address_of(&block);
    let mut blocks = blocks.clone();
    blocks.insert(commit, block);
    let ops: Vec<Ipld> = ops
        .iter()
        .map(|op| {
            let cid = op.cid().map_or(Ipld::Null, Ipld::Link);
            ipld!({ "action": op.action, "path": op.path.as_str(), "cid": cid })
        })
        .collect();
    let header = encode(&ipld!({ "op": 1, "t": "#commit" }));
    let payload = encode(&ipld!({
        "seq": 7,
        "repo": DID,
        "rev": REV,
        "since": null,
        "time": "2026-07-04T14:38:07.877Z",
        "commit": Ipld::Link(commit),
        "blocks": Ipld::Bytes(write_car(commit, &blocks)),
        "ops": ops,
    }));
    [header, payload].concat()
}
