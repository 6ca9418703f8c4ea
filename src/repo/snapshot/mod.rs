//! A repository as its host exports it: fetched completely, verified completely, then read.
//!
//! The CAR is written to a [`Spool`] as it arrives, which needs little memory for any length. A
//! [`Snapshot`] is verified: the commit is signed, and the tree is complete and has the only valid
//! shape. So a record that is not in the tree was deleted. The tree proves the CID of each record,
//! also where the block of the record is missing or bad. What is not wanted need not be there.
//!
//! A snapshot is read from a file on the calling thread; use `spawn_blocking`.

mod index;
mod sections;
mod spool;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

pub use sections::MAX_SECTION;
pub use spool::{Limits, Spool, SpoolError};

use crate::atproto::key::VerifyingKey;
use crate::atproto::mst::{Leaf, ProofError, Walk, WalkError};
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Did;
use crate::atproto::verify::{SyncEvidence, VerifyError, verify_sync};

/// The memory that the transfer of a repository takes, of any size: a block of the usual length, the
/// buffers of the socket and of the files, and a run of the index.
pub const TRANSFER_MEMORY: usize = 1 << 20;

/// The memory that reading a spooled repository takes, of any size: the nodes between the root of its
/// tree and a key, and a part of its records.
pub const READING_MEMORY: usize = 4 << 20;

/// The longest record, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// The most bytes of wanted records, each counted for every path at which it is. A tree may name one
/// record at any number of paths, so a short repository can stand for far more bytes than it has.
pub const MAX_RECORDS: u64 = 1 << 30;

/// The most missing records that are named.
pub const MAX_MISSING: usize = 10_000;

/// A repository at one commit.
#[derive(Debug)]
pub struct Snapshot {
    /// The CID of the commit block.
    pub cid: Cid,
    pub commit: SignedCommit,
    /// The first of the wanted records whose block is missing, in the order of their paths.
    pub missing: Vec<(String, Cid)>,
    spool: Arc<Spool>,
}

/// Why a repository is refused, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Commit(#[from] VerifyError),
    /// Our own disk failed. This says nothing about the repository.
    #[error("cannot read the blocks from their file: {0}")]
    File(#[from] io::Error),
    #[error("the wanted records have more than {MAX_RECORDS} bytes, counted for each path")]
    Records,
    #[error("the record {0} is missing")]
    RecordMissing(Box<Cid>),
    #[error("the record {cid} has {bytes} bytes, {MAX_RECORD} are allowed")]
    RecordSize { cid: Box<Cid>, bytes: u64 },
    #[error("tree: {0}")]
    Tree(ProofError),
}

impl Snapshot {
    /// Verifies the repository of `did`: the commit with the account's key, then the whole tree.
    /// Looks which records of the collections that `wants` selects are missing. `now` is used to
    /// refuse revs of the future. The caller keeps a reference to the spool, because it may have to
    /// retry with a newer key.
    ///
    /// # Errors
    /// The first error found. After a signature error, the tree was not checked.
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
        // A commit block by itself is the same evidence as that of a `#sync`.
        let evidence = SyncEvidence {
            cid: *spool.root(),
            commit,
        };
        verify_sync(&evidence, key, now)?;
        let mut snapshot = Self {
            cid: evidence.cid,
            commit: evidence.commit,
            missing: Vec::new(),
            spool: Arc::clone(spool),
        };
        snapshot.missing = snapshot.find_missing(wants)?;
        Ok(snapshot)
    }

    /// Walks the whole tree, looks for the wanted records, and adds up their bytes.
    fn find_missing(
        &self,
        wants: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, Cid)>, SnapshotError> {
        let (mut missing, mut bytes) = (Vec::new(), 0);
        for record in self.records(wants) {
            let (path, cid) = record?;
            let length = self.spool.length(&cid)?;
            bytes += length.unwrap_or_default();
            if bytes > MAX_RECORDS {
                return Err(SnapshotError::Records);
            }
            let is_there = length.is_some() || self.spool.too_long(&cid).is_some();
            if !is_there && missing.len() < MAX_MISSING {
                missing.push((path, cid));
            }
        }
        Ok(missing)
    }

    /// The paths and CIDs of all records in the collections that `wants` selects, in the order of
    /// the paths. The part after the collection may not be a valid record key; bytes of it that are
    /// not UTF-8 are replaced. After an error the iterator ends.
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

    /// Whether the host gave no block with this CID.
    pub fn lacks(&self, cid: &Cid) -> bool {
        matches!(self.spool.contains(cid), Ok(false)) && self.spool.too_long(cid).is_none()
    }

    /// The bytes of a record, as signed.
    ///
    /// # Errors
    /// If the record is missing or too long.
    pub fn record(&self, cid: &Cid) -> Result<Bytes, SnapshotError> {
        let record = self.spool.get(cid)?;
        let kept = record.as_ref().map(|record| record.len() as u64);
        let cid = || Box::new(*cid);
        match (record, kept.or_else(|| self.spool.too_long(&cid()))) {
            (Some(record), Some(0..=MAX_RECORD)) => Ok(record),
            (_, Some(bytes)) => Err(SnapshotError::RecordSize { cid: cid(), bytes }),
            (_, None) => Err(SnapshotError::RecordMissing(cid())),
        }
    }
}

/// The collection in a path: the part before the slash.
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
