//! A repository as its host gives it out: fetched whole, proved whole, and then read.
//!
//! A CAR goes to a [`Spool`] as it comes, which costs little memory however long it is. What a
//! [`Snapshot`] tells has been verified: the commit is signed, the tree under it is complete and the
//! only one of its kind, and the records that are wanted are all there. So a record that is not in it
//! was deleted.
//!
//! A snapshot is read from a file, on the thread that asks: hand that to `spawn_blocking`.

mod spool;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

pub use spool::{MAX_SECTION, Spool, SpoolError};

use crate::atproto::key::VerifyingKey;
use crate::atproto::mst::{Leaf, ProofError, Walk, WalkError};
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Did;
use crate::atproto::verify::{SyncEvidence, VerifyError, verify_sync};

/// The longest record, in bytes.
const MAX_RECORD: usize = 1 << 20;

/// A repository at one commit.
#[derive(Debug)]
pub struct Snapshot {
    /// The CID of the commit block.
    pub cid: Cid,
    pub commit: SignedCommit,
    spool: Arc<Spool>,
}

/// Why a repository is not to be believed, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Commit(#[from] VerifyError),
    /// Our own disk is at fault, not the repository.
    #[error("cannot read the blocks from their file: {0}")]
    File(#[from] io::Error),
    #[error("the record {0} is missing")]
    RecordMissing(Box<Cid>),
    #[error("the record {cid} has {bytes} bytes, {MAX_RECORD} are allowed")]
    RecordSize { cid: Box<Cid>, bytes: usize },
    #[error("tree: {0}")]
    Tree(ProofError),
}

impl Snapshot {
    /// Verifies the repository of `did`: the commit by the account's key, then the whole tree, and
    /// that the records are there of the collections that `wants` names. `now` is to tell revs of the
    /// future. The spool is left to the caller too, who may have an older key than the commit.
    ///
    /// # Errors
    /// With the first thing that is wrong. Where it is the signature, nothing below was looked at.
    pub fn verify(
        spool: &Arc<Spool>,
        did: &Did,
        key: &VerifyingKey,
        now: Timestamp,
        wants: impl Fn(&str) -> bool,
    ) -> Result<Self, SnapshotError> {
        let block = spool.get(spool.root())?.ok_or(VerifyError::CommitMissing)?;
        let commit = SignedCommit::decode(&block).map_err(VerifyError::from)?;
        if commit.did != *did {
            return Err(VerifyError::Did.into());
        }
        // A commit block alone is what a `#sync` brings.
        let evidence = SyncEvidence {
            cid: *spool.root(),
            commit,
        };
        verify_sync(&evidence, key, now)?;
        let snapshot = Self {
            cid: evidence.cid,
            commit: evidence.commit,
            spool: Arc::clone(spool),
        };
        snapshot.check_records(wants)?;
        Ok(snapshot)
    }

    /// Walks all of the tree, and looks for the records that are wanted.
    fn check_records(&self, wants: impl Fn(&str) -> bool) -> Result<(), SnapshotError> {
        for record in self.records(wants) {
            let (_, cid) = record?;
            if !self.spool.contains(&cid)? {
                return Err(SnapshotError::RecordMissing(Box::new(cid)));
            }
        }
        Ok(())
    }

    /// The paths and CIDs of all records in the collections that `wants` names, in the order of the
    /// paths. What follows the collection may be no record key; what is not UTF-8 in it is replaced.
    /// After an error there is nothing more.
    pub fn records(
        &self,
        wants: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = Result<(String, Cid), SnapshotError>> {
        Walk::new(self.commit.data, |cid| self.spool.get(cid)).filter_map(move |step| match step {
            Ok(Leaf { key, value }) if collection(&key).is_some_and(&wants) => {
                Some(Ok((String::from_utf8_lossy(&key).into_owned(), value)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    /// A record's bytes, as signed.
    ///
    /// # Errors
    /// If it is not there, or too long.
    pub fn record(&self, cid: &Cid) -> Result<Bytes, SnapshotError> {
        let record = self.spool.get(cid)?;
        let record = record.ok_or_else(|| SnapshotError::RecordMissing(Box::new(*cid)))?;
        match record.len() {
            0..=MAX_RECORD => Ok(record),
            bytes => Err(SnapshotError::RecordSize {
                cid: Box::new(*cid),
                bytes,
            }),
        }
    }
}

/// What comes before the slash of a path.
fn collection(key: &[u8]) -> Option<&str> {
    let end = key.iter().position(|byte| *byte == b'/')?;
    str::from_utf8(&key[..end]).ok()
}

impl From<WalkError<io::Error>> for SnapshotError {
    fn from(error: WalkError<io::Error>) -> Self {
        match error {
            WalkError::Proof(error) => Self::Tree(error),
            WalkError::Read(error) => Self::File(error),
        }
    }
}
