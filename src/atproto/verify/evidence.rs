//! What a message brings to prove what it says.

use std::collections::{BTreeMap, HashSet};

use cid::Cid;

use super::error::{VerifyError, shown};
use crate::atproto::car::{Blocks, is_address_of};
use crate::atproto::cbor;
use crate::atproto::event::Sync;
use crate::atproto::payload::{
    CommitPayload, MAX_BLOCKS, MAX_OPS, MAX_SYNC_BLOCKS, Op as PayloadOp, since,
};
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Tid;

/// All that a `#commit` says of its repository, and the blocks to prove it. It agrees with itself as
/// far as that can be told without the tree, the key and the time.
#[derive(Debug)]
pub struct CommitEvidence {
    /// The CID of the commit block.
    pub cid: Cid,
    pub commit: SignedCommit,
    /// The rev before this one; `None` for a repository's first commit. Nothing here proves it.
    pub since: Option<Tid>,
    /// The root of the tree before this commit.
    pub prev_data: Option<Cid>,
    /// What the operations come to on each path, whoever wants them.
    pub ops: BTreeMap<String, Op>,
    /// Whose hashes are checked: the commit block and the records that the operations leave.
    pub blocks: Blocks,
}

/// What a commit did to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create {
        cid: Cid,
        prev: Option<Cid>,
    },
    Update {
        cid: Cid,
        prev: Option<Cid>,
    },
    Delete {
        prev: Option<Cid>,
    },
    /// Created and deleted again: nothing was before, and nothing is there after.
    Nothing,
}

/// What a `#sync` says of its repository.
#[derive(Debug)]
pub struct SyncEvidence {
    /// The CID of the commit block.
    pub cid: Cid,
    pub commit: SignedCommit,
}

impl CommitEvidence {
    /// Reads the evidence of a `#commit` from its payload.
    ///
    /// # Errors
    /// If the payload is not what its lexicon says, or too large; if the commit block or a record is
    /// missing or another one; if message and commit block, or the parts of an operation, contradict
    /// each other.
    pub fn of(payload: &[u8]) -> Result<Self, VerifyError> {
        // serde takes more for DAG-CBOR than it should.
        cbor::check(payload)?;
        Self::of_payload(&serde_ipld_dagcbor::from_slice(payload)?)
    }

    /// The same of a payload that is known to be DAG-CBOR.
    pub(crate) fn of_payload(payload: &CommitPayload<'_>) -> Result<Self, VerifyError> {
        if payload.ops.len() > MAX_OPS {
            return Err(VerifyError::OpCount(payload.ops.len()));
        }
        let blocks = read_blocks(payload.blocks, MAX_BLOCKS)?;
        if blocks.root != payload.commit {
            return Err(VerifyError::Root);
        }
        let commit = signed_commit(&blocks, payload.repo, payload.rev)?;
        let ops = operations(&payload.ops)?;
        check_records(&ops, &blocks)?;
        Ok(Self {
            cid: payload.commit,
            commit,
            since: since(payload.since)?,
            prev_data: payload.prev_data,
            ops,
            blocks,
        })
    }
}

impl SyncEvidence {
    /// Reads the evidence of a `#sync`.
    ///
    /// # Errors
    /// If its blocks are too many or no CAR; if the commit block is missing, another one, or
    /// contradicts the message.
    pub fn of(sync: &Sync) -> Result<Self, VerifyError> {
        let blocks = read_blocks(&sync.blocks, MAX_SYNC_BLOCKS)?;
        Ok(Self {
            cid: blocks.root,
            commit: signed_commit(&blocks, sync.did.as_str(), sync.rev.as_str())?,
        })
    }
}

impl Op {
    /// The value after the commit.
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Self::Create { cid, .. } | Self::Update { cid, .. } => Some(*cid),
            Self::Delete { .. } | Self::Nothing => None,
        }
    }

    /// The value before the commit, as the message says.
    pub fn prev(&self) -> Option<Cid> {
        match self {
            Self::Create { prev, .. } | Self::Update { prev, .. } | Self::Delete { prev } => *prev,
            Self::Nothing => None,
        }
    }

    /// What this operation and `next`, on the same path, come to; `None` where the one leaves nothing
    /// that the other could be done to. The protocol wants one operation a path, and servers take more.
    /// What `next` says was before it may be the value from before the commit or the one from between
    /// the two, depending on the server; nothing rests on it.
    fn then(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Create { prev, .. }, Self::Update { cid, .. }) => {
                Some(Self::Create { cid, prev })
            }
            (Self::Create { prev: None, .. }, Self::Delete { .. }) => Some(Self::Nothing),
            (Self::Update { prev, .. }, Self::Update { cid, .. })
            | (Self::Delete { prev }, Self::Create { cid, .. }) => Some(Self::Update { cid, prev }),
            (Self::Update { prev, .. }, Self::Delete { .. }) => Some(Self::Delete { prev }),
            (Self::Nothing, Self::Create { cid, .. }) => Some(Self::Create { cid, prev: None }),
            _ => None,
        }
    }

    fn of(op: &PayloadOp<'_>) -> Result<Self, VerifyError> {
        let path = || shown(op.path);
        let prev = op.prev;
        match (op.action, op.cid) {
            ("create", Some(cid)) => Ok(Self::Create { cid, prev }),
            ("update", Some(cid)) => Ok(Self::Update { cid, prev }),
            ("delete", None) => Ok(Self::Delete { prev }),
            ("create" | "update", None) => Err(VerifyError::WithoutCid { path: path() }),
            ("delete", Some(_)) => Err(VerifyError::DeleteWithCid { path: path() }),
            _ => Err(VerifyError::Action { path: path() }),
        }
    }
}

fn read_blocks(car: &[u8], limit: usize) -> Result<Blocks, VerifyError> {
    if car.len() > limit {
        let found = car.len();
        return Err(VerifyError::BlocksSize { found, limit });
    }
    Ok(Blocks::read_all(car)?)
}

/// The commit block, which is the CAR's root.
fn signed_commit(blocks: &Blocks, did: &str, rev: &str) -> Result<SignedCommit, VerifyError> {
    let block = blocks.get(&blocks.root).ok_or(VerifyError::CommitMissing)?;
    if !is_address_of(&blocks.root, block) {
        return Err(VerifyError::CommitAddress);
    }
    let commit = SignedCommit::decode(block)?;
    if commit.did.as_str() != did {
        return Err(VerifyError::Did);
    }
    if commit.rev.as_str() != rev {
        return Err(VerifyError::Rev);
    }
    Ok(commit)
}

fn operations(payload: &[PayloadOp<'_>]) -> Result<BTreeMap<String, Op>, VerifyError> {
    let mut ops = BTreeMap::<String, Op>::new();
    for next in payload {
        let op = Op::of(next)?;
        let path = || shown(next.path);
        let op = match ops.get(next.path) {
            None => op,
            Some(before) => before
                .then(op)
                .ok_or_else(|| VerifyError::DuplicatePath { path: path() })?,
        };
        ops.insert(next.path.to_owned(), op);
    }
    Ok(ops)
}

/// A record that the same commit has replaced or deleted again need not be there.
fn check_records(ops: &BTreeMap<String, Op>, blocks: &Blocks) -> Result<(), VerifyError> {
    // Many paths may name one record.
    let mut checked = HashSet::new();
    for (path, op) in ops {
        let Some(cid) = op.cid().filter(|cid| checked.insert(*cid)) else {
            continue;
        };
        let path = || shown(path);
        let record = blocks
            .get(&cid)
            .ok_or_else(|| VerifyError::RecordMissing { path: path() })?;
        if !is_address_of(&cid, record) {
            return Err(VerifyError::RecordAddress { path: path() });
        }
    }
    Ok(())
}
