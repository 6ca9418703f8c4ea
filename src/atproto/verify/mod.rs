//! Verifies commits: the signature of the account, and the change from one tree to the next.
//!
//! Spec: <https://atproto.com/specs/sync>. Two kinds of checks are not here. Checks that need more
//! than one commit: whether the rev is later than the last one, and whether the commit starts at
//! the tree where the last one ended. And checks of a single record: whether its path is valid, and
//! whether the record can be read.
//!
//! Verification reads only the nodes around the operations. A subtree that stays closed is the same
//! before and after the commit. Only a reader of the whole repository can tell whether the keys of
//! a closed subtree belong at its position, beside a key that the commit created.

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

/// The largest time by which a rev may be ahead of the local clock.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// How much of a commit is verified. Each level includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The signature, and the value in the tree at the path of each operation.
    Commit,
    /// Also that undoing the operations gives the tree before the commit.
    Chain,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Chain => "chain",
        }
    }

    /// `None` if the text names no level.
    pub fn parse(text: &str) -> Option<Self> {
        let mut levels = [Self::Commit, Self::Chain].into_iter();
        levels.find(|level| level.as_str() == text)
    }
}

/// Verifies a commit with the key of its account. `now` is used to refuse revs of the future.
///
/// # Errors
/// The first error found, in this order: signature, time, tree, chain.
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

/// Verifies a `#sync` with the key of its account.
///
/// # Errors
/// If its rev is in the future, or its signature is not valid for `key`.
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
    // The signature first, so that only the account itself can make its commits wait.
    commit.verify(key)?;
    if commit.rev.timestamp().duration_since(now) > MAX_AHEAD {
        return Err(VerifyError::FutureRev(commit.rev.clone()));
    }
    Ok(())
}

/// Compares each operation with the tree after the commit.
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

/// Compares the tree before the operations with `prevData`. A first commit may omit `prevData`; the
/// tree before must then be empty.
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

/// Checks that each operation names its previous value, or none if it is a create.
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
