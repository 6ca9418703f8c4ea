//! Whether a commit is what it says: signed by its account, and a step from one tree to the next.
//!
//! Spec: <https://atproto.com/specs/sync>. What takes more than one commit to tell (that its rev is
//! later than the last one, that it begins where the last one ended) is not here, nor is what
//! concerns one record alone: a path that names no record, a record that can't be read.
//!
//! Of the tree it is the nodes around the operations that are looked at. A subtree that stays closed
//! is the same before and after the commit. Whether its keys belong where it now stands, next to a key
//! that was created, only a reader of the whole repository can tell.

mod error;
mod evidence;

use std::collections::BTreeMap;

use cid::Cid;
use jiff::{SignedDuration, Timestamp};

pub use error::VerifyError;
pub use evidence::{CommitEvidence, Op, SyncEvidence};

use super::key::VerifyingKey;
use super::mst::{Inversion, Presence, empty_root};
use super::signed_commit::SignedCommit;

/// How far a rev may be ahead of our clock.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// How much of a commit is verified. Each level is all of the one before, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The signature, and what the tree holds on the path of each operation.
    Commit,
    /// That the tree without the operations is the one that was before.
    Chain,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Chain => "chain",
        }
    }
}

/// Verifies a commit by the key of its account. `now` is to tell revs of the future.
///
/// # Errors
/// With the first thing that is wrong: the time, then the signature, then the tree, then the chain.
pub fn verify_commit(
    evidence: &CommitEvidence,
    key: &VerifyingKey,
    level: Level,
    now: Timestamp,
) -> Result<(), VerifyError> {
    verify_signed(&evidence.commit, key, now)?;
    let inversion = prove_operations(evidence)?;
    match level {
        Level::Commit => Ok(()),
        Level::Chain => verify_chain(evidence, inversion),
    }
}

/// Verifies a `#sync` by the key of its account.
///
/// # Errors
/// If its rev is of the future, or its signature not that of `key`.
pub fn verify_sync(
    evidence: &SyncEvidence,
    key: &VerifyingKey,
    now: Timestamp,
) -> Result<(), VerifyError> {
    verify_signed(&evidence.commit, key, now)
}

fn verify_signed(
    commit: &SignedCommit,
    key: &VerifyingKey,
    now: Timestamp,
) -> Result<(), VerifyError> {
    if commit.rev.timestamp().duration_since(now) > MAX_AHEAD {
        return Err(VerifyError::FutureRev(commit.rev.clone()));
    }
    Ok(commit.verify(key)?)
}

/// Holds each operation against the tree after it.
fn prove_operations(evidence: &CommitEvidence) -> Result<Inversion<'_>, VerifyError> {
    let before: BTreeMap<&str, Option<Cid>> = evidence
        .ops
        .iter()
        .map(|(path, op)| (path.as_str(), op.prev()))
        .collect();
    let inversion = Inversion::new(&evidence.blocks, evidence.commit.data, &before)
        .map_err(VerifyError::Tree)?;
    for ((path, op), found) in evidence.ops.iter().zip(inversion.found()) {
        let path = || error::shown(path);
        match (op.cid(), *found) {
            (Some(cid), Presence::Present(value)) if cid == value => {}
            (None, Presence::Absent) => {}
            (Some(_), Presence::Present(_)) => return Err(VerifyError::Value { path: path() }),
            (Some(_), Presence::Absent) => return Err(VerifyError::NotInTree { path: path() }),
            (None, Presence::Present(_)) => {
                return Err(VerifyError::StillPresent { path: path() });
            }
        }
    }
    Ok(inversion)
}

/// Holds the tree before the operations against the one that the message names. A first commit may
/// name none: then there was nothing before.
fn verify_chain(evidence: &CommitEvidence, inversion: Inversion<'_>) -> Result<(), VerifyError> {
    let Some(prev_data) = evidence.prev_data else {
        let is_first = evidence.since.is_none() && inversion.root() == Ok(empty_root());
        return match is_first {
            true => check_prevs(&evidence.ops),
            false => Err(VerifyError::PrevDataMissing),
        };
    };
    check_prevs(&evidence.ops)?;
    let found = inversion.root().map_err(VerifyError::Inversion)?;
    if found != prev_data {
        return Err(VerifyError::PrevData {
            prev_data: Box::new(prev_data),
            found: Box::new(found),
        });
    }
    Ok(())
}

/// Each operation says whether something was before, and what.
fn check_prevs(ops: &BTreeMap<String, Op>) -> Result<(), VerifyError> {
    for (path, op) in ops {
        let path = || error::shown(path);
        match (op, op.prev()) {
            (Op::Create { .. }, Some(_)) => {
                return Err(VerifyError::CreateWithPrev { path: path() });
            }
            (Op::Update { .. } | Op::Delete { .. }, None) => {
                return Err(VerifyError::WithoutPrev { path: path() });
            }
            _ => {}
        }
    }
    Ok(())
}
