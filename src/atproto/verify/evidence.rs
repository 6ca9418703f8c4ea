//! The parts of a message that prove its claims.

use std::collections::{BTreeMap, HashSet};

use cid::Cid;

use super::error::{VerifyError, shown};
use crate::atproto::car::{Blocks, is_address_of};
use crate::atproto::event::Sync;
use crate::atproto::payload::{
    CommitPayload, MAX_BLOCKS, MAX_OPS, MAX_SYNC_BLOCKS, Op as PayloadOp, since,
};
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Tid;

/// Everything that a `#commit` says about its repository, with the blocks to prove it. It has
/// passed all checks that need neither the tree, the key nor the time.
#[derive(Debug)]
pub struct CommitEvidence {
    /// The CID of the commit block.
    pub cid: Cid,
    pub commit: SignedCommit,
    /// The rev before this one; `None` for a repository's first commit. The signature does not
    /// cover it.
    pub since: Option<Tid>,
    /// The root of the tree before this commit.
    pub prev_data: Option<Cid>,
    /// The combined result of the operations on each path. Includes collections that are not
    /// wanted.
    pub ops: BTreeMap<String, Op>,
    /// All blocks. The hashes of the commit block and of the records that remain after the commit
    /// are checked.
    pub blocks: Blocks,
}

/// The effect of a commit on one path.
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
    /// Created and deleted in the same commit: the path is absent before and after.
    Nothing,
}

/// What a `#sync` says about its repository.
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
    /// If the payload does not match its lexicon or is too large; if the commit block or a record
    /// is missing or does not match its CID; if the message contradicts the commit block, or an
    /// operation contradicts itself.
    pub fn of(payload: &[u8]) -> Result<Self, VerifyError> {
        Self::of_payload(&CommitPayload::read(payload)?)
    }

    /// Like [`Self::of`], for a payload that was read.
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
    /// If its blocks are too large or not a CAR; if the commit block is missing, does not match its
    /// CID, or contradicts the message.
    pub fn of(sync: &Sync) -> Result<Self, VerifyError> {
        let blocks = read_blocks(&sync.blocks, MAX_SYNC_BLOCKS)?;
        Ok(Self {
            cid: blocks.root,
            commit: signed_commit(&blocks, sync.did.as_str(), sync.rev.as_str())?,
        })
    }
}

impl Op {
    /// The CID after the commit.
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Self::Create { cid, .. } | Self::Update { cid, .. } => Some(*cid),
            Self::Delete { .. } | Self::Nothing => None,
        }
    }

    /// The CID before the commit, according to the message.
    pub fn prev(&self) -> Option<Cid> {
        match self {
            Self::Create { prev, .. } | Self::Update { prev, .. } | Self::Delete { prev } => *prev,
            Self::Nothing => None,
        }
    }

    /// Combines this operation with `next` on the same path. `None` if `next` cannot follow this
    /// operation. The protocol allows one operation for each path, but some servers accept more.
    /// Depending on the server, the `prev` of `next` is the value before the commit or the value
    /// between the two operations; it is not used.
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

/// The commit block, which is the root of the CAR.
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

/// Checks the records that remain after the commit. The CAR need not contain a record that the same
/// commit replaced or deleted.
fn check_records(ops: &BTreeMap<String, Op>, blocks: &Blocks) -> Result<(), VerifyError> {
    // Several paths may name the same record.
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
