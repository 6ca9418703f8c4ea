//! Messages of `com.atproto.sync.subscribeRepos`, as bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;

use crate::car::encode;
use crate::repo::CommitFrame;

/// One entry of the relay's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The seq after which a client resumes, independent of the seq in the frame. `None` if a
    /// client cannot resume there, for example at an `#info`.
    pub seq: Option<u64>,
    pub frame: Bytes,
    /// Sent as a text message. Frames of the protocol are never text.
    pub is_text: bool,
}

impl LogEntry {
    pub fn numbered(seq: u64, frame: Bytes) -> Self {
        Self {
            seq: Some(seq),
            frame,
            is_text: false,
        }
    }

    pub fn unnumbered(frame: Bytes) -> Self {
        Self {
            seq: None,
            frame,
            is_text: false,
        }
    }

    pub fn text(text: &str) -> Self {
        Self {
            seq: None,
            frame: Bytes::copy_from_slice(text.as_bytes()),
            is_text: true,
        }
    }
}

/// The seq and the time of a message. Every message except `#info` has them.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub seq: u64,
    pub time: String,
}

/// The fields of a message.
pub type Payload = BTreeMap<String, Ipld>;

pub fn message(t: &str, payload: Payload) -> Bytes {
    framed(&ipld!({ "op": 1, "t": t }), &Ipld::Map(payload))
}

fn framed(header: &Ipld, payload: &Ipld) -> Bytes {
    [encode(header), encode(payload)].concat().into()
}

pub fn commit(stamp: Stamp, did: &str, commit: CommitFrame) -> Bytes {
    message("#commit", commit_payload(stamp, did, commit))
}

pub fn commit_payload(stamp: Stamp, did: &str, commit: CommitFrame) -> Payload {
    let ops: Vec<Ipld> = commit
        .ops
        .into_iter()
        .map(|op| {
            let mut map = BTreeMap::from([
                ("action".to_owned(), Ipld::from(op.action.as_str())),
                ("path".to_owned(), Ipld::String(op.path)),
                ("cid".to_owned(), op.cid.map_or(Ipld::Null, Ipld::Link)),
            ]);
            if let Some(prev) = op.prev {
                map.insert("prev".to_owned(), Ipld::Link(prev));
            }
            Ipld::Map(map)
        })
        .collect();
    let mut payload = BTreeMap::from([
        ("seq".to_owned(), integer(stamp.seq)),
        ("time".to_owned(), Ipld::String(stamp.time)),
        ("repo".to_owned(), Ipld::from(did)),
        ("commit".to_owned(), Ipld::Link(commit.head.commit)),
        ("rev".to_owned(), Ipld::String(commit.head.rev)),
        (
            "since".to_owned(),
            commit.since.map_or(Ipld::Null, Ipld::String),
        ),
        ("blocks".to_owned(), Ipld::Bytes(commit.blocks)),
        ("ops".to_owned(), Ipld::List(ops)),
        ("blobs".to_owned(), Ipld::List(Vec::new())),
        ("rebase".to_owned(), Ipld::Bool(false)),
        ("tooBig".to_owned(), Ipld::Bool(false)),
    ]);
    if let Some(data) = commit.prev_data {
        payload.insert("prevData".to_owned(), Ipld::Link(data));
    }
    payload
}

pub fn sync(stamp: Stamp, did: &str, rev: &str, blocks: Vec<u8>) -> Bytes {
    let mut payload = stamped(stamp, did);
    payload.insert("rev".to_owned(), Ipld::from(rev));
    payload.insert("blocks".to_owned(), Ipld::Bytes(blocks));
    message("#sync", payload)
}

pub fn identity(stamp: Stamp, did: &str, handle: Option<&str>) -> Bytes {
    let mut payload = stamped(stamp, did);
    if let Some(handle) = handle {
        payload.insert("handle".to_owned(), Ipld::from(handle));
    }
    message("#identity", payload)
}

pub fn account(stamp: Stamp, did: &str, status: Option<&str>) -> Bytes {
    let mut payload = stamped(stamp, did);
    payload.insert("active".to_owned(), Ipld::Bool(status.is_none()));
    if let Some(status) = status {
        payload.insert("status".to_owned(), Ipld::from(status));
    }
    message("#account", payload)
}

/// A message that no consumer knows, with an unknown type or an unknown op.
pub fn unknown(stamp: Stamp, did: &str, op: i64) -> Bytes {
    let header = ipld!({ "op": op, "t": "#weather" });
    framed(&header, &Ipld::Map(stamped(stamp, did)))
}

pub fn info(name: &str) -> Bytes {
    let payload = BTreeMap::from([
        ("name".to_owned(), Ipld::from(name)),
        ("message".to_owned(), Ipld::from("for your information")),
    ]);
    message("#info", payload)
}

pub fn error(name: &str) -> Bytes {
    let payload = ipld!({ "error": name, "message": "no" });
    framed(&ipld!({ "op": -1 }), &payload)
}

/// The common fields of all messages except `#info`; in a commit, the DID is called `repo`.
pub fn stamped(stamp: Stamp, did: &str) -> Payload {
    BTreeMap::from([
        ("seq".to_owned(), integer(stamp.seq)),
        ("time".to_owned(), Ipld::String(stamp.time)),
        ("did".to_owned(), Ipld::from(did)),
    ])
}

fn integer(seq: u64) -> Ipld {
    Ipld::Integer(seq.into())
}
