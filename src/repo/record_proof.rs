//! One record with its proof: the answer of `com.atproto.sync.getRecord`, which has the signed commit,
//! the nodes between the root of its tree and the record, and the record.

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use crate::atproto::car::{Blocks, is_address_of};
use crate::atproto::key::VerifyingKey;
use crate::atproto::mst::{Presence, find};
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::{SyncEvidence, VerifyError, verify_sync};

/// What an account's repository has at a path, as its key has signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenRecord {
    /// The rev of the commit.
    pub rev: Tid,
    /// `None` if there is no record at the path.
    pub record: Option<(Cid, Bytes)>,
}

/// Why an answer proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecordProofError {
    #[error(transparent)]
    Commit(#[from] VerifyError),

    #[error("the record {0} is not among the blocks, or does not hash to its CID")]
    Record(Box<Cid>),
}

/// Reads what the repository of `did` has at a path, from a CAR. `now` is used to refuse revs of the
/// future. Blocks that the proof does not need are ignored.
///
/// # Errors
/// If the commit is not signed by `key`, or the tree proves neither the record nor its absence.
pub fn prove(
    car: &[u8],
    did: &Did,
    key: &VerifyingKey,
    collection: &Nsid,
    rkey: &RecordKey,
    now: Timestamp,
) -> Result<ProvenRecord, RecordProofError> {
    let blocks = Blocks::read_all(car).map_err(VerifyError::from)?;
    let block = blocks.get(&blocks.root).ok_or(VerifyError::CommitMissing)?;
    if !is_address_of(&blocks.root, block) {
        return Err(VerifyError::CommitAddress.into());
    }
    let commit = SignedCommit::decode(block).map_err(VerifyError::from)?;
    if commit.did != *did {
        return Err(VerifyError::Did.into());
    }
    // A commit block by itself is the same evidence as that of a `#sync`.
    let evidence = SyncEvidence {
        cid: blocks.root,
        commit,
    };
    verify_sync(&evidence, key, now)?;
    let path = format!("{collection}/{rkey}");
    let found = find(&blocks, evidence.commit.data, path.as_bytes()).map_err(VerifyError::Tree)?;
    let record = match found {
        Presence::Absent => None,
        Presence::Present(cid) => {
            let record = blocks.get(&cid).filter(|block| is_address_of(&cid, block));
            let record = record.ok_or_else(|| RecordProofError::Record(Box::new(cid)))?;
            Some((cid, record.clone()))
        }
    };
    Ok(ProvenRecord {
        rev: evidence.commit.rev,
        record,
    })
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use ipld_core::ipld;
    use simulated_network::car::{Blocks as Built, encode, read_car, write_car};
    use simulated_network::key::SigningKey;
    use simulated_network::repo::{Repository, Write};
    use simulated_network::tid::tid;

    use super::*;

    const DID: &str = "did:plc:ann";
    const COLLECTION: &str = "com.example.note";

    fn key(seed: u64) -> SigningKey {
        SigningKey::generate(&mut Rng::with_seed(seed))
    }

    /// A repository of forty records, as a CAR.
    fn car() -> Vec<u8> {
        let mut repo = Repository::new(DID, key(1));
        let writes = (0..40).map(|n| Write {
            path: format!("{COLLECTION}/{n:02}"),
            value: Some(ipld!({ "n": n })),
        });
        repo.apply(writes.collect(), tid(1_767_225_600_000_000, 1));
        repo.export_car().unwrap()
    }

    fn proven_by(car: &[u8], seed: u64, rkey: &str) -> Result<ProvenRecord, RecordProofError> {
        let key: VerifyingKey = key(seed).public_multibase().parse().unwrap();
        let (did, collection) = (Did::parse(DID).unwrap(), Nsid::parse(COLLECTION).unwrap());
        let (rkey, now) = (RecordKey::parse(rkey).unwrap(), Timestamp::now());
        prove(car, &did, &key, &collection, &rkey, now)
    }

    fn proven(car: &[u8], rkey: &str) -> Result<ProvenRecord, RecordProofError> {
        proven_by(car, 1, rkey)
    }

    fn changed(change: impl FnOnce(Cid, &mut Built)) -> Vec<u8> {
        let (root, mut blocks) = read_car(&car()).unwrap();
        change(root, &mut blocks);
        write_car(root, &blocks)
    }

    #[test]
    fn a_record_and_its_absence_are_proven() {
        let found = proven(&car(), "07").unwrap();
        let (cid, record) = found.record.unwrap();
        assert_eq!(record, encode(&ipld!({ "n": 7 })));
        assert!(is_address_of(&cid, &record));
        assert_eq!(proven(&car(), "99").unwrap().record, None);
    }

    #[test]
    fn what_another_key_has_signed_proves_nothing() {
        let refused = proven_by(&car(), 2, "07").unwrap_err();
        assert!(matches!(
            refused,
            RecordProofError::Commit(VerifyError::Signature(_))
        ));
    }

    #[test]
    fn a_changed_or_missing_block_proves_nothing() {
        let record = encode(&ipld!({ "n": 7 }));
        let cid = crate::atproto::car::address_of(&record);
        let other =
            changed(|_, blocks| *blocks.get_mut(&cid).unwrap() = encode(&ipld!({ "n": 8 })));
        let missing = changed(|_, blocks| drop(blocks.remove(&cid)));
        for car in [other, missing] {
            let refused = proven(&car, "07").unwrap_err();
            assert!(matches!(refused, RecordProofError::Record(_)), "{refused}");
        }
        let commit = changed(|root, blocks| {
            let block = blocks.get(&root).unwrap();
            let data = SignedCommit::decode(block).unwrap().data;
            blocks.remove(&data);
        });
        let refused = proven(&commit, "07").unwrap_err();
        assert!(matches!(
            refused,
            RecordProofError::Commit(VerifyError::Tree(_))
        ));
    }

    #[test]
    fn a_repository_of_another_account_proves_nothing() {
        let mut repo = Repository::new("did:plc:bob", key(1));
        repo.apply(Vec::new(), tid(1_767_225_600_000_000, 1));
        let refused = proven(&repo.export_car().unwrap(), "07").unwrap_err();
        assert!(matches!(
            refused,
            RecordProofError::Commit(VerifyError::Did)
        ));
    }
}
