//! Events: the decoded frames of `com.atproto.sync.subscribeRepos`.

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use super::syntax::{Did, Nsid, RecordKey, Tid};
use crate::model::Position;

/// One message of the stream, of a kind that this worker handles.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A repository changed (`#commit`).
    Commit(Box<Commit>),
    /// A repository announces its state without the changes that led to it (`#sync`).
    Sync(Sync),
    /// A handle, a key or a host may have changed (`#identity`, and the retired `#handle`).
    Identity(Identity),
    /// An account's hosting status (`#account`, and the retired `#tombstone`).
    Account(Account),
    /// A message about the stream itself (`#info`). It has no seq.
    Info(Info),
}

impl Event {
    /// The position of the event in its source; `None` for an `#info`.
    pub fn position(&self) -> Option<Position> {
        let (seq, time) = match self {
            Self::Account(account) => (account.seq, account.time),
            Self::Commit(commit) => (commit.seq, commit.time),
            Self::Identity(identity) => (identity.seq, identity.time),
            Self::Info(_) => return None,
            Self::Sync(sync) => (sync.seq, sync.time),
        };
        Some(Position {
            seq,
            time: Some(time),
        })
    }

    /// The event with a time of at most `latest`. Its server wrote the time, and later events must
    /// not be measured by a time that is far ahead.
    #[must_use]
    pub fn not_later_than(mut self, latest: Timestamp) -> Self {
        let time = match &mut self {
            Self::Account(account) => &mut account.time,
            Self::Commit(commit) => &mut commit.time,
            Self::Identity(identity) => &mut identity.time,
            Self::Info(_) => return self,
            Self::Sync(sync) => &mut sync.time,
        };
        *time = (*time).min(latest);
        self
    }

    /// The account of the event; `None` for an `#info`.
    pub fn did(&self) -> Option<&Did> {
        match self {
            Self::Account(account) => Some(&account.did),
            Self::Commit(commit) => Some(&commit.did),
            Self::Identity(identity) => Some(&identity.did),
            Self::Info(_) => None,
            Self::Sync(sync) => Some(&sync.did),
        }
    }
}

/// A `#commit`, reduced to the wanted operations.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    pub seq: u64,
    pub did: Did,
    pub rev: Tid,
    /// The rev before this one; `None` for a repository's first commit, and if it is no rev.
    pub since: Option<Tid>,
    /// When the server emitted the event.
    pub time: Timestamp,
    /// The CID of the signed commit block.
    pub commit: Cid,
    /// The MST root that the commit block names.
    pub data: Cid,
    /// The MST root before this commit (Sync 1.1). Some real servers omit it.
    pub prev_data: Option<Cid>,
    /// The wanted operations, in the order of the commit. Of several operations on one path only
    /// the last is here.
    pub ops: Vec<RecordOp>,
    /// Operations of wanted collections whose path is not a valid record path.
    pub misnamed: Vec<MisnamedOp>,
}

/// An operation on a path that is not `collection/rkey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisnamedOp {
    /// At most 1024 characters of the path.
    pub path: String,
    pub reason: String,
    /// The block that the operation names; empty if the CAR does not have it.
    pub record: Bytes,
}

/// One operation on one record.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordOp {
    pub collection: Nsid,
    pub rkey: RecordKey,
    pub change: Change,
}

/// What an operation does to its record.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The record is now `record`, whose SHA-256 matches `cid`.
    Put {
        action: PutAction,
        cid: Cid,
        /// The record's DAG-CBOR, exactly as signed.
        record: Bytes,
    },
    Delete,
    /// The record did not come with the commit. Its repository has it.
    Missing {
        reason: String,
        /// The block that came in its place; empty if there is none.
        record: Bytes,
    },
    /// This operation cannot be verified or read. The other operations of the commit are not
    /// affected.
    Broken {
        reason: String,
        /// The block that the operation names; empty if the CAR does not have it.
        record: Bytes,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAction {
    Create,
    Update,
}

/// A `#sync`: it carries the commit block only.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    pub seq: u64,
    pub did: Did,
    pub rev: Tid,
    pub time: Timestamp,
    /// The CAR that holds the commit block.
    pub blocks: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub seq: u64,
    pub did: Did,
    pub time: Timestamp,
    /// The handle according to the server. Untrusted, often absent.
    pub handle: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub seq: u64,
    pub did: Did,
    pub time: Timestamp,
    pub active: bool,
    /// Why the account is not active, in an open vocabulary (`deleted`, `takendown`, …).
    pub status: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub name: String,
    pub message: Option<String>,
}
