//! Invalid messages of a relay: frames that no consumer can accept, and commits with one invalid
//! operation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use cid::Cid;
use fastrand::Rng;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;

use crate::car::{address_of, encode, read_car, write_car};
use crate::frame::{Payload, Stamp, message, stamped};
use crate::record::{SLOT_OFFER, is_looked_at};

/// One byte longer than the longest allowed frame.
static TOO_LONG: LazyLock<Bytes> = LazyLock::new(|| vec![0; 5_000_001].into());
/// One operation more than a commit may have.
const TOO_MANY: usize = 201;
/// The first number that is not a valid seq.
const SEQ_END: i128 = 1 << 53;
const MOST_GARBAGE: usize = 300;

/// Makes a message invalid.
type Spoil = fn(&mut Payload);

/// Detected by every consumer, because it reads these fields of every commit.
const SPOILED_ENVELOPES: [Spoil; 8] = [
    |commit| set(commit, "seq", ipld!("seven")),
    |commit| set(commit, "seq", ipld!(-7)),
    |commit| set(commit, "seq", ipld!(0)),
    |commit| set(commit, "seq", Ipld::Integer(SEQ_END)),
    |commit| set(commit, "ops", ipld!({})),
    |commit| set(commit, "ops", ipld!([{ "action": "create" }])),
    |commit| set(commit, "repo", ipld!(7)),
    |commit| set(commit, "time", ipld!(["now"])),
];

/// Detected only by a consumer that wants the records of the commit.
const SPOILED_COMMITS: [Spoil; 10] = [
    |commit| set(commit, "blocks", ipld!("text")),
    |commit| set(commit, "commit", Ipld::Link(address_of(b"another"))),
    |commit| set(commit, "repo", ipld!("did:plc:mallory")),
    |commit| set(commit, "rev", ipld!("2222222222222")),
    |commit| set(commit, "rev", ipld!("yesterday")),
    |commit| set(commit, "since", ipld!(7)),
    |commit| set(commit, "time", ipld!("yesterday")),
    |commit| drop(commit.remove("commit")),
    |commit| drop(commit.remove("blocks")),
    |commit| {
        if let Some(Ipld::List(ops)) = commit.get_mut("ops")
            && let Some(op) = ops.first().cloned()
        {
            ops.resize(TOO_MANY, op);
        }
    },
];

/// Errors in messages other than commits.
const SPOILED_OTHERS: [(&str, Spoil); 7] = [
    ("#account", |_without_active| {}),
    ("#account", |account| set(account, "active", ipld!("yes"))),
    ("#identity", |identity| {
        set(identity, "did", ipld!("nobody"))
    }),
    ("#identity", |identity| {
        set(identity, "time", ipld!("2026-02-30T00:00:00Z"));
    }),
    ("#identity", |identity| set(identity, "handle", ipld!(7))),
    ("#info", |_without_name| {}),
    ("#sync", |_without_blocks| {}),
];

/// One way to make an invalid frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weapon {
    /// A CAR file that ends too early.
    CutCar,
    CutFrame,
    Garbage,
    SpoiledCommit,
    SpoiledEnvelope,
    SpoiledOther,
    TooLong,
    Trailing,
}

impl Weapon {
    pub(crate) fn choose(random: &mut Rng) -> Self {
        match random.u32(..40) {
            0 => Self::TooLong,
            1..5 => Self::Garbage,
            5..10 => Self::CutFrame,
            10..13 => Self::Trailing,
            13..18 => Self::CutCar,
            18..24 => Self::SpoiledOther,
            24..31 => Self::SpoiledEnvelope,
            _ => Self::SpoiledCommit,
        }
    }

    /// Whether every consumer detects it, and not only one that decodes the commit.
    pub(crate) fn is_always_noticed(self) -> bool {
        !matches!(self, Self::CutCar | Self::SpoiledCommit)
    }

    /// An invalid frame, made from a valid commit.
    pub(crate) fn frame(
        self,
        stamp: Stamp,
        did: &str,
        mut commit: Payload,
        random: &mut Rng,
    ) -> Bytes {
        match self {
            Self::CutCar => {
                cut_car(&mut commit, random);
                message("#commit", commit)
            }
            Self::CutFrame => {
                let frame = message("#commit", commit);
                frame.slice(..random.usize(..frame.len()))
            }
            Self::Garbage => {
                let length = random.usize(..MOST_GARBAGE);
                let bytes = std::iter::repeat_with(|| random.u8(..)).take(length);
                // No CBOR item begins with this byte where an item must begin.
                std::iter::once(0xff).chain(bytes).collect()
            }
            Self::SpoiledCommit => {
                one_of(&SPOILED_COMMITS, random)(&mut commit);
                message("#commit", commit)
            }
            Self::SpoiledEnvelope => {
                one_of(&SPOILED_ENVELOPES, random)(&mut commit);
                message("#commit", commit)
            }
            Self::SpoiledOther => {
                let (t, spoil) = one_of(&SPOILED_OTHERS, random);
                let mut payload = stamped(stamp, did);
                spoil(&mut payload);
                message(t, payload)
            }
            Self::TooLong => TOO_LONG.clone(),
            Self::Trailing => [&message("#commit", commit)[..], b"\0"].concat().into(),
        }
    }
}

/// An operation that is invalid. The other operations of its commit are valid.
#[derive(Debug)]
pub(crate) struct SpoiledOperation {
    pub(crate) path: String,
    /// The record block in the commit; empty if there is none.
    pub(crate) block: Bytes,
}

/// Makes one operation of a commit invalid, or adds an invalid one if none is suitable.
pub(crate) fn spoil_operation(commit: &mut Payload, random: &mut Rng) -> SpoiledOperation {
    let records = single_records(commit);
    match random.choice(records) {
        Some((path, cid)) => spoil_record(commit, path, cid, random),
        None => add_operation(commit, random),
    }
}

/// The wanted records that only one operation refers to.
fn single_records(commit: &Payload) -> Vec<(String, Cid)> {
    let Some(Ipld::List(ops)) = commit.get("ops") else {
        return Vec::new();
    };
    let mut by_path = BTreeMap::<&String, Vec<Option<&Cid>>>::new();
    let (mut seen, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for op in ops {
        let (Ok(Some(Ipld::String(path))), Ok(cid)) = (op.get("path"), op.get("cid")) else {
            continue;
        };
        let cid = match cid {
            Some(Ipld::Link(cid)) => Some(cid),
            _ => None,
        };
        if let Some(cid) = cid.filter(|cid| !seen.insert(*cid)) {
            shared.insert(cid);
        }
        by_path.entry(path).or_default().push(cid);
    }
    let single = by_path.into_iter().filter_map(|(path, cids)| {
        let &[Some(cid)] = &cids[..] else {
            return None;
        };
        (is_looked_at(path) && !shared.contains(cid)).then(|| (path.clone(), *cid))
    });
    single.collect()
}

fn spoil_record(
    commit: &mut Payload,
    path: String,
    cid: Cid,
    random: &mut Rng,
) -> SpoiledOperation {
    const A_FLOAT: &[u8] = b"\xa1\x61x\xfb\x3f\xf8\0\0\0\0\0\0";
    let (root, mut blocks) = car(commit);
    let block = match random.u32(..4) {
        0 => {
            blocks.remove(&cid);
            Vec::new()
        }
        1 => {
            let another = encode(&ipld!({ "text": "not what was signed" }));
            blocks.insert(cid, another.clone());
            another
        }
        kind => {
            let no_record = match kind {
                2 => encode(&ipld!(["no", "map"])),
                _ => A_FLOAT.to_vec(),
            };
            let address = address_of(&no_record);
            blocks.insert(address, no_record.clone());
            name_record(commit, &path, address);
            no_record
        }
    };
    set(commit, "blocks", Ipld::Bytes(write_car(root, &blocks)));
    SpoiledOperation {
        path,
        block: block.into(),
    }
}

fn name_record(commit: &mut Payload, record: &str, cid: Cid) {
    let Some(Ipld::List(ops)) = commit.get_mut("ops") else {
        return;
    };
    for op in ops {
        if let Ipld::Map(op) = op
            && op.get("path") == Some(&Ipld::from(record))
        {
            set(op, "cid", Ipld::Link(cid));
        }
    }
}

fn add_operation(commit: &mut Payload, random: &mut Rng) -> SpoiledOperation {
    let (action, rkey) = match random.u32(..3) {
        0 => ("rename", "odd"),
        1 => ("create", "nameless"),
        _ => ("create", ".."),
    };
    let path = format!("{SLOT_OFFER}/{rkey}");
    if let Some(Ipld::List(ops)) = commit.get_mut("ops") {
        ops.push(ipld!({ "action": action, "path": path.as_str(), "cid": null }));
    }
    SpoiledOperation {
        path,
        block: Bytes::new(),
    }
}

/// Cuts the CAR file at any byte except between blocks, where it would only have fewer blocks.
fn cut_car(commit: &mut Payload, random: &mut Rng) {
    let Some(Ipld::Bytes(car)) = commit.get_mut("blocks") else {
        return;
    };
    let mut end = random.usize(..car.len());
    while read_car(&car[..end]).is_some() {
        end -= 1;
    }
    car.truncate(end);
}

fn car(commit: &Payload) -> (Cid, crate::car::Blocks) {
    let car = match commit.get("blocks") {
        Some(Ipld::Bytes(car)) => read_car(car),
        _ => None,
    };
    car.expect("a commit brings a CAR file")
}

fn set(map: &mut Payload, field: &str, value: Ipld) {
    map.insert(field.to_owned(), value);
}

fn one_of<T: Copy>(choices: &[T], random: &mut Rng) -> T {
    choices[random.usize(..choices.len())]
}
