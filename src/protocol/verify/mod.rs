//! Whether a commit is what it says: signed by its account, and a step from one tree to the next.
//!
//! Spec: <https://atproto.com/specs/sync>. What takes more than one commit to tell (that its rev is
//! later than the last one, that it begins where the last one ended) is not here, nor is what
//! concerns one record alone: a path that names no record, a record that can't be read.

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
        let path = || path.clone();
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

/// Holds the tree before the operations against the one that the message names. A first commit names
/// none: there was nothing.
fn verify_chain(evidence: &CommitEvidence, inversion: Inversion<'_>) -> Result<(), VerifyError> {
    if evidence.prev_data.is_none() && evidence.since.is_some() {
        return Err(VerifyError::PrevDataMissing);
    }
    for (path, op) in &evidence.ops {
        let path = || path.clone();
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
    let found = inversion.root().map_err(VerifyError::Inversion)?;
    match evidence.prev_data {
        Some(prev_data) if prev_data == found => Ok(()),
        Some(prev_data) => Err(VerifyError::PrevData {
            prev_data: Box::new(prev_data),
            found: Box::new(found),
        }),
        None if found == empty_root() => Ok(()),
        None => Err(VerifyError::PrevDataMissing),
    }
}
