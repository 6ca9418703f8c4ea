//! Decodes `#commit` with its CAR, and `#sync`.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cid::Cid;
use serde::Deserialize;

use super::{CommitFault, Fault, at_most};
use crate::atproto::car::{Blocks, is_address, is_address_of};
use crate::atproto::cbor::{self, CborError, Item, Reader};
use crate::atproto::datetime::parse_datetime;
use crate::atproto::event::{Change, Commit, MisnamedOp, PutAction, RecordOp, Sync};
use crate::atproto::payload::{
    CommitPayload, MAX_BLOCKS, MAX_OPS, MAX_SYNC_BLOCKS, Op, SyncPayload, since,
};
use crate::atproto::syntax::{Did, Nsid, RecordKey, SyntaxError, Tid};
use crate::atproto::verify::CommitEvidence;
use crate::source::interest::Interest;

/// The longest record, in bytes.
const MAX_RECORD: usize = 1 << 20;
/// The most characters of an invalid path that are kept. The longest NSID and record key fit.
const MAX_SHOWN_PATH: usize = 1024;
/// The version of the repository format.
const VERSION: u64 = 3;

/// The commit block, which the account's key signs.
#[derive(Deserialize)]
struct CommitBlock<'a> {
    did: &'a str,
    rev: &'a str,
    version: u64,
    data: Cid,
}

/// Why the record of an operation cannot be verified or read.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("the record's bytes do not hash to its CID")]
    Address,
    #[error("the record's CID is not of DAG-CBOR under SHA-256")]
    Codec,
    #[error("the record is not DAG-CBOR: {0}")]
    Cbor(#[from] CborError),
    #[error("the record has {0} bytes, {MAX_RECORD} are allowed")]
    Length(usize),
    #[error("the record is not in the CAR")]
    Missing,
    #[error("the record is not a map")]
    NotAMap,
    #[error("the operation names no CID")]
    WithoutCid,
}

/// Decodes a commit without the evidence to verify it.
pub(super) fn decode(payload: &[u8], interest: &Interest) -> Result<Commit, Fault> {
    let payload = CommitPayload::read(payload)?;
    at_most("commit", payload.ops.len(), MAX_OPS, "operations")?;
    at_most(
        "commit",
        payload.blocks.len(),
        MAX_BLOCKS,
        "bytes of blocks",
    )?;
    let ops = last_wanted_ops(&payload.ops, interest);
    let cids = ops.iter().filter_map(|op| op.cid).chain([payload.commit]);
    let blocks = Blocks::read(payload.blocks, &cids.collect())?;
    let data = data_of_commit(&payload, &blocks);
    commit(&payload, &ops, &blocks, data)
}

/// Decodes a commit, and the evidence to verify it.
pub(super) fn decode_with_evidence(
    payload: &[u8],
    interest: &Interest,
) -> Result<(Commit, CommitEvidence), Fault> {
    let payload = CommitPayload::read(payload)?;
    let evidence = CommitEvidence::of_payload(&payload)?;
    let ops = last_wanted_ops(&payload.ops, interest);
    let commit = commit(&payload, &ops, &evidence.blocks, Ok(evidence.commit.data))?;
    Ok((commit, evidence))
}

fn commit(
    payload: &CommitPayload<'_>,
    ops: &[Op<'_>],
    blocks: &Blocks,
    data: Result<Cid, CommitFault>,
) -> Result<Commit, Fault> {
    let mut misnamed = Vec::new();
    let mut records = Records::of(blocks);
    let ops = ops
        .iter()
        .filter_map(|op| {
            record_op(op, &mut records)
                .map_err(|error| misnamed.push(misnamed_op(op, blocks, &error)))
                .ok()
        })
        .collect();
    Ok(Commit {
        seq: payload.seq,
        did: Did::parse(payload.repo)?,
        rev: Tid::parse(payload.rev)?,
        since: since(payload.since),
        time: parse_datetime(payload.time)?,
        commit: payload.commit,
        data: data?,
        prev_data: payload.prev_data,
        ops,
        misnamed,
    })
}

pub(super) fn decode_sync(payload: &[u8]) -> Result<Sync, Fault> {
    let SyncPayload { about, rev, blocks } = SyncPayload::read(payload)?;
    at_most("sync", blocks.len(), MAX_SYNC_BLOCKS, "bytes of blocks")?;
    Ok(Sync {
        seq: about.seq,
        did: Did::parse(about.did)?,
        rev: Tid::parse(rev)?,
        time: parse_datetime(about.time)?,
        blocks: Bytes::copy_from_slice(blocks),
    })
}

/// The wanted operations; of several on one path only the last, at its position. The CAR need not
/// contain the value that an earlier operation wrote, because the commit does not contain it
/// either.
fn last_wanted_ops<'a>(ops: &[Op<'a>], interest: &Interest) -> Vec<Op<'a>> {
    let mut paths = HashSet::new();
    let mut last: Vec<Op<'a>> = ops
        .iter()
        .rev()
        .filter(|op| interest.wants_path(op.path) && paths.insert(op.path))
        .copied()
        .collect();
    last.reverse();
    last
}

/// The MST root in the commit block, after checking that the block belongs to the envelope.
fn data_of_commit(payload: &CommitPayload<'_>, blocks: &Blocks) -> Result<Cid, CommitFault> {
    if blocks.root != payload.commit {
        return Err(CommitFault::Root);
    }
    let bytes = blocks.get(&payload.commit).ok_or(CommitFault::Missing)?;
    if !is_address_of(&payload.commit, bytes) {
        return Err(CommitFault::Address);
    }
    let block: CommitBlock<'_> = serde_ipld_dagcbor::from_slice(bytes)?;
    if block.version != VERSION {
        return Err(CommitFault::Version(block.version));
    }
    if block.did != payload.repo {
        return Err(CommitFault::Differs("did"));
    }
    if block.rev != payload.rev {
        return Err(CommitFault::Differs("rev"));
    }
    Ok(block.data)
}

fn record_op(op: &Op<'_>, records: &mut Records<'_>) -> Result<RecordOp, SyntaxError> {
    let (collection, rkey) = op.path.split_once('/').unwrap_or((op.path, ""));
    Ok(RecordOp {
        collection: Nsid::parse(collection)?,
        rkey: RecordKey::parse(rkey)?,
        change: records.change(op),
    })
}

fn misnamed_op(op: &Op<'_>, blocks: &Blocks, error: &SyntaxError) -> MisnamedOp {
    MisnamedOp {
        path: op.path.chars().take(MAX_SHOWN_PATH).collect(),
        reason: error.to_string(),
        record: named_block(op, blocks),
    }
}

/// The block that an invalid operation names, for the dead letter.
fn named_block(op: &Op<'_>, blocks: &Blocks) -> Bytes {
    op.cid
        .and_then(|cid| blocks.get(&cid).cloned())
        .unwrap_or_default()
}

/// The records of a commit. Each is checked once, however many operations name it.
struct Records<'b> {
    blocks: &'b Blocks,
    checked: HashMap<Cid, Checked>,
}

/// What is known of the record with a CID.
#[derive(Clone)]
enum Checked {
    Read(Bytes),
    Broken { reason: String },
    Missing { reason: String },
}

impl<'b> Records<'b> {
    fn of(blocks: &'b Blocks) -> Self {
        Self {
            blocks,
            checked: HashMap::new(),
        }
    }

    fn change(&mut self, op: &Op<'_>) -> Change {
        let action = match op.action {
            "create" => PutAction::Create,
            "update" => PutAction::Update,
            "delete" => return Change::Delete,
            other => {
                let other: String = other.chars().take(64).collect();
                return Change::Broken {
                    reason: format!("unknown action {other:?}"),
                    record: named_block(op, self.blocks),
                };
            }
        };
        let Some(cid) = op.cid else {
            return Change::Broken {
                reason: RecordError::WithoutCid.to_string(),
                record: Bytes::new(),
            };
        };
        let blocks = self.blocks;
        let checked = self
            .checked
            .entry(cid)
            .or_insert_with(|| check(&cid, blocks));
        match checked.clone() {
            Checked::Read(record) => Change::Put {
                action,
                cid,
                record,
            },
            Checked::Missing { reason } => Change::Missing {
                reason,
                record: named_block(op, blocks),
            },
            Checked::Broken { reason } => Change::Broken {
                reason,
                record: named_block(op, blocks),
            },
        }
    }
}

fn check(cid: &Cid, blocks: &Blocks) -> Checked {
    match record(cid, blocks) {
        Ok(record) => Checked::Read(record),
        Err(error @ (RecordError::Address | RecordError::Missing)) => Checked::Missing {
            reason: error.to_string(),
        },
        Err(error) => Checked::Broken {
            reason: error.to_string(),
        },
    }
}

/// The record at `cid`: it is in the CAR, matches its hash, and is a map of the data model.
fn record(cid: &Cid, blocks: &Blocks) -> Result<Bytes, RecordError> {
    if !is_address(cid) {
        return Err(RecordError::Codec);
    }
    let record = blocks.get(cid).ok_or(RecordError::Missing)?;
    if !is_address_of(cid, record) {
        return Err(RecordError::Address);
    }
    if record.len() > MAX_RECORD {
        return Err(RecordError::Length(record.len()));
    }
    if !matches!(Reader::new(record).item()?, Item::Map(_)) {
        return Err(RecordError::NotAMap);
    }
    cbor::check(record)?;
    Ok(record.clone())
}

#[cfg(test)]
mod tests {
    use ipld_core::{ipld, ipld::Ipld};

    use super::super::sample::{CommitFrame, TIME, frame};
    use super::super::{Content, DecodeError};
    use super::*;
    use crate::atproto::event::Event;

    const PATH: &str = "com.huddle.booking/3jzfcijpj2z2a";

    fn try_decode(frame: &CommitFrame) -> Result<Commit, DecodeError> {
        let interest = Interest::new(["com.huddle.*".parse().unwrap()]);
        let frame = frame.bytes();
        match super::super::decode(&frame, &interest)?.content {
            Content::Event(Event::Commit(commit)) => Ok(*commit),
            other => panic!("not a commit: {other:?}"),
        }
    }

    fn decode(frame: &CommitFrame) -> Commit {
        try_decode(frame).unwrap()
    }

    fn fault(frame: &CommitFrame) -> String {
        try_decode(frame).unwrap_err().to_string()
    }

    fn reason(op: &RecordOp) -> &str {
        match &op.change {
            Change::Broken { reason, .. } | Change::Missing { reason, .. } => reason,
            other => panic!("not broken: {other:?}"),
        }
    }

    fn record(status: &str) -> Ipld {
        ipld!({ "$type": "com.huddle.booking", "status": status })
    }

    #[test]
    fn a_wanted_record_comes_with_its_bytes_and_the_others_are_left_out() {
        let frame = CommitFrame::default()
            .create("app.bsky.feed.like/a", &ipld!({}))
            .create(PATH, &record("confirmed"))
            .delete("com.huddle.slotOffer/b");
        let commit = decode(&frame);
        assert_eq!(commit.ops.len(), 2);
        let Change::Put {
            action,
            cid,
            record: bytes,
        } = &commit.ops[0].change
        else {
            panic!("{commit:?}");
        };
        assert_eq!(*action, PutAction::Create);
        assert!(is_address_of(cid, bytes));
        assert_eq!(
            serde_ipld_dagcbor::from_slice::<Ipld>(bytes).unwrap(),
            record("confirmed")
        );
        assert_eq!(commit.ops[1].collection.as_str(), "com.huddle.slotOffer");
        assert_eq!(commit.ops[1].change, Change::Delete);
        assert_eq!(commit.data, frame.data());
    }

    #[test]
    fn one_broken_record_does_not_affect_the_others() {
        let mut frame = CommitFrame::default()
            .create("com.huddle.booking/float", &ipld!({ "x": 1.5 }))
            .create("com.huddle.booking/list", &ipld!([1]))
            .create("com.huddle.booking/missing", &record("lost"))
            .create("com.huddle.booking/good", &record("confirmed"))
            .op("rename", "com.huddle.booking/renamed", None)
            .op("update", "com.huddle.booking/nameless", None);
        frame.forget_block("com.huddle.booking/missing");
        let commit = decode(&frame);
        let reasons: Vec<&str> = [0, 1, 2, 4, 5]
            .iter()
            .map(|index| reason(&commit.ops[*index]))
            .collect();
        assert_eq!(
            reasons,
            [
                "the record is not DAG-CBOR: a float, which the data model forbids at byte 3",
                "the record is not a map",
                "the record is not in the CAR",
                "unknown action \"rename\"",
                "the operation names no CID",
            ]
        );
        assert!(matches!(commit.ops[3].change, Change::Put { .. }));
    }

    #[test]
    fn a_record_whose_bytes_were_changed_is_refused() {
        let mut frame = CommitFrame::default().create(PATH, &record("confirmed"));
        frame.replace_block(PATH, &record("cancelled"));
        assert_eq!(
            reason(&decode(&frame).ops[0]),
            "the record's bytes do not hash to its CID"
        );
    }

    #[test]
    fn the_last_operation_on_a_path_is_the_one_that_counts() {
        let mut frame = CommitFrame::default()
            .create(PATH, &record("pending"))
            .create("com.huddle.booking/other", &record("pending"));
        frame.forget_block(PATH);
        let frame = frame.update(PATH, &record("confirmed"));
        let commit = decode(&frame);
        let rkeys: Vec<&str> = commit.ops.iter().map(|op| op.rkey.as_str()).collect();
        assert_eq!(rkeys, ["other", "3jzfcijpj2z2a"]);
        assert!(matches!(
            commit.ops[1].change,
            Change::Put {
                action: PutAction::Update,
                ..
            }
        ));
    }

    #[test]
    fn duplicate_and_extra_blocks_are_tolerated() {
        let mut frame = CommitFrame::default().create(PATH, &record("confirmed"));
        frame.extra_blocks = vec![b"something else".to_vec(), frame.block(PATH)];
        assert!(matches!(decode(&frame).ops[0].change, Change::Put { .. }));
    }

    #[test]
    fn a_since_that_is_no_rev_is_none_and_old_fields_may_be_missing() {
        for since in ["", "x", "3jzfcijpj2z2a/"] {
            let frame = CommitFrame {
                since: Some(ipld!(since)),
                ..CommitFrame::default().delete(PATH)
            };
            let commit = decode(&frame);
            assert_eq!(commit.since, None);
            assert_eq!(commit.prev_data, None);
        }
    }

    #[test]
    fn the_identifiers_of_an_envelope_must_be_valid() {
        let wrong = |change: fn(&mut CommitFrame)| {
            let mut frame = CommitFrame::default().delete(PATH);
            change(&mut frame);
            fault(&frame)
        };
        assert_eq!(
            wrong(|frame| frame.rev = "not-a-tid".to_owned()),
            "not a valid TID: \"not-a-tid\""
        );
        assert_eq!(
            wrong(|frame| frame.time = "yesterday".to_owned()),
            "not a valid datetime: \"yesterday\""
        );
    }

    #[test]
    fn an_invalid_path_does_not_affect_the_other_operations() {
        let frame = CommitFrame::default()
            .delete("com.huddle.booking/..")
            .create(PATH, &record("confirmed"));
        let commit = decode(&frame);
        assert_eq!(commit.ops.len(), 1);
        assert_eq!(commit.misnamed.len(), 1);
        assert_eq!(commit.misnamed[0].path, "com.huddle.booking/..");
        assert_eq!(commit.misnamed[0].reason, "not a valid record key: \"..\"");
    }

    #[test]
    fn the_commit_block_must_match_the_envelope() {
        let wrong = |change: fn(&mut CommitFrame)| {
            let mut frame = CommitFrame::default().delete(PATH);
            change(&mut frame);
            fault(&frame)
        };
        assert_eq!(
            wrong(|frame| frame.block_did = "did:plc:mallory".to_owned()),
            "commit block: its did is not the envelope's"
        );
        assert_eq!(
            wrong(|frame| frame.block_rev = "3jzfcijpj2z2b".to_owned()),
            "commit block: its rev is not the envelope's"
        );
        assert_eq!(
            wrong(|frame| frame.block_version = 2),
            "commit block: version 2; only version 3 is known"
        );
        assert_eq!(
            wrong(|frame| frame.root = Some(super::super::sample::cid_of(b"other"))),
            "commit block: the CAR's root is another block"
        );
    }

    #[test]
    fn a_commit_of_too_many_operations_is_refused() {
        let ops = (0..=MAX_OPS).fold(CommitFrame::default(), |frame, index| {
            frame.delete(&format!("com.huddle.booking/{index}"))
        });
        assert_eq!(fault(&ops), "commit has 201 operations, 200 are allowed");
    }

    #[test]
    fn a_car_cut_short_fails_the_commit() {
        let mut frame = CommitFrame::default().create(PATH, &record("confirmed"));
        let mut car = frame.car();
        car.pop();
        frame.blocks = Some(car);
        assert!(fault(&frame).starts_with("CAR is cut short at byte"));
    }

    #[test]
    fn a_sync_keeps_its_blocks() {
        let payload = ipld!({
            "seq": 9, "did": "did:plc:ann", "rev": "3jzfcijpj2z2a", "time": TIME,
            "blocks": Ipld::Bytes(b"car".to_vec()),
        });
        let frame = frame("#sync", &payload);
        let decoded = super::super::decode(&frame, &Interest::default()).unwrap();
        let Content::Event(Event::Sync(sync)) = decoded.content else {
            panic!("{decoded:?}");
        };
        assert_eq!(sync.blocks, b"car".as_slice());
    }
}
