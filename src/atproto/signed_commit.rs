//! The commit block: the block that an account's key signs. It contains the DID, the rev and the
//! root of the tree.
//!
//! Spec: <https://atproto.com/specs/repository#commit-objects>. Decoding is stricter than for
//! records: if one reader skipped an unknown field and another reader included it in the signed
//! bytes, they would disagree on whether the signature is valid.

use cid::Cid;

use super::car::is_address;
use super::cbor::{self, CborError, Reader};
use super::key::{SignatureError, VerifyingKey};
use super::syntax::{Did, SyntaxError, Tid};

/// The version of the repository format.
const VERSION: u64 = 3;
/// The head of a map that has all fields of a commit except the signature.
const UNSIGNED_HEAD: u8 = 0xa5;

/// A commit block. Its signature is not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCommit {
    pub did: Did,
    pub rev: Tid,
    /// The root of the tree.
    pub data: Cid,
    signature: Vec<u8>,
    /// The signed bytes: the same block without the signature.
    unsigned: Vec<u8>,
}

/// A block that is not a valid commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitBlockError {
    #[error(transparent)]
    Cbor(#[from] CborError),
    #[error("its tree is no link to DAG-CBOR under SHA-256")]
    Link,
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("a field that the format does not know")]
    UnknownField,
    #[error("version {0}; only version {VERSION} is known")]
    Version(u64),
}

impl SignedCommit {
    /// Decodes a commit from its block.
    ///
    /// # Errors
    /// If `block` is not canonical DAG-CBOR; if a field is missing, unknown or not valid; if the
    /// version is not 3.
    pub fn decode(block: &[u8]) -> Result<Self, CommitBlockError> {
        cbor::check(block)?;
        let mut reader = Reader::new(block);
        let (mut did, mut rev, mut data, mut version) = (None, None, None, None);
        let (mut has_prev, mut signature) = (false, None);
        let mut unsigned = vec![UNSIGNED_HEAD];
        let mut keys = reader.map()?;
        let mut start = reader.position();
        while let Some(key) = keys.next(&mut reader)? {
            match key {
                b"did" => did = Some(Did::parse(reader.text()?)?),
                b"rev" => rev = Some(Tid::parse(reader.text()?)?),
                b"sig" => signature = Some(reader.bytes()?.to_vec()),
                b"data" => data = reader.nullable_link()?,
                b"prev" => has_prev = reader.nullable_link().map(|_| true)?,
                b"version" => version = Some(reader.unsigned()?),
                _ => return Err(CommitBlockError::UnknownField),
            }
            let end = reader.position();
            if key != b"sig" {
                unsigned.extend(&block[start..end]);
            }
            start = end;
        }
        let missing = CommitBlockError::Missing;
        match version.ok_or(missing("version"))? {
            VERSION => {}
            other => return Err(CommitBlockError::Version(other)),
        }
        if !has_prev {
            return Err(missing("prev"));
        }
        Ok(Self {
            did: did.ok_or(missing("did"))?,
            rev: rev.ok_or(missing("rev"))?,
            data: data
                .ok_or(missing("data"))
                .and_then(|data| match is_address(&data) {
                    true => Ok(data),
                    false => Err(CommitBlockError::Link),
                })?,
            signature: signature.ok_or(missing("sig"))?,
            unsigned,
        })
    }

    /// Verifies the signature.
    ///
    /// # Errors
    /// If `key` did not make it, or if it does not have the one allowed form.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), SignatureError> {
        key.verify(&self.unsigned, &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;
    use ipld_core::{ipld, ipld::Ipld};
    use simulated_network::key::SigningKey;

    use super::*;
    use crate::atproto::cbor::CborFault;
    use crate::source::firehose::decode::sample::cid_of;

    type Fields = BTreeMap<String, Ipld>;

    fn fields() -> Fields {
        let fields = ipld!({
            "did": "did:plc:ann",
            "rev": "3jzfcijpj2z2a",
            "data": Ipld::Link(cid_of(b"the MST root")),
            "prev": null,
            "version": 3,
        });
        match fields {
            Ipld::Map(fields) => fields,
            other => panic!("not a map: {other:?}"),
        }
    }

    fn encode(fields: &Fields) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(&Ipld::Map(fields.clone())).unwrap()
    }

    fn signed(fields: &Fields) -> Vec<u8> {
        let key = SigningKey::generate(&mut Rng::with_seed(1));
        let mut signed = fields.clone();
        let signature = Ipld::Bytes(key.sign(&encode(fields)));
        signed.insert("sig".to_owned(), signature);
        encode(&signed)
    }

    fn public() -> VerifyingKey {
        let key = SigningKey::generate(&mut Rng::with_seed(1));
        key.public_multibase().parse().unwrap()
    }

    /// Decodes a valid commit that was changed by `change` and then signed.
    fn changed(change: impl FnOnce(&mut Fields)) -> Result<SignedCommit, CommitBlockError> {
        let mut fields = fields();
        change(&mut fields);
        SignedCommit::decode(&signed(&fields))
    }

    fn with(field: &str, value: Ipld) -> Result<SignedCommit, CommitBlockError> {
        changed(|fields| drop(fields.insert(field.to_owned(), value)))
    }

    #[test]
    fn a_commit_gives_its_fields_and_the_signed_bytes() {
        let commit = SignedCommit::decode(&signed(&fields())).unwrap();
        assert_eq!(commit.did.as_str(), "did:plc:ann");
        assert_eq!(commit.rev.as_str(), "3jzfcijpj2z2a");
        assert_eq!(commit.data, cid_of(b"the MST root"));
        assert_eq!(commit.unsigned, encode(&fields()));
        assert_eq!(commit.verify(&public()), Ok(()));
    }

    #[test]
    fn a_commit_may_name_the_previous_commit_in_the_signed_bytes() {
        let commit = with("prev", Ipld::Link(cid_of(b"before"))).unwrap();
        assert_eq!(commit.verify(&public()), Ok(()));
    }

    #[test]
    fn each_field_must_be_there() {
        for field in ["did", "rev", "data", "prev", "version"] {
            let refused = changed(|fields| drop(fields.remove(field)));
            assert!(
                matches!(refused, Err(CommitBlockError::Missing(name)) if name == field),
                "{field}: {refused:?}"
            );
        }
        let refused = SignedCommit::decode(&encode(&fields()));
        assert_eq!(refused, Err(CommitBlockError::Missing("sig")));
        let refused = with("data", Ipld::Null);
        assert_eq!(refused, Err(CommitBlockError::Missing("data")));
    }

    #[test]
    fn a_field_of_another_type_or_an_unknown_field_is_refused() {
        let raw = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
        let raw = Ipld::Link(raw.parse().unwrap());
        assert_eq!(with("data", raw), Err(CommitBlockError::Link));
        assert_eq!(with("version", ipld!(2)), Err(CommitBlockError::Version(2)));
        assert_eq!(with("x", ipld!(2)), Err(CommitBlockError::UnknownField));
        for field in ["did", "rev"] {
            let refused = with(field, ipld!("x"));
            assert!(matches!(refused, Err(CommitBlockError::Syntax(_))));
        }
        for field in ["did", "rev", "data", "prev", "version"] {
            let refused = with(field, ipld!(false));
            assert!(
                matches!(&refused, Err(CommitBlockError::Cbor(error)) if matches!(error.fault, CborFault::Unexpected(_))),
                "{field}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_block_in_another_encoding_is_refused() {
        let block = signed(&fields());
        for end in 0..block.len() {
            assert!(SignedCommit::decode(&block[..end]).is_err(), "cut at {end}");
        }
        let mut prolonged = block.clone();
        prolonged.push(0);
        assert!(SignedCommit::decode(&prolonged).is_err());
        // 3 as an integer of two bytes, which is not canonical.
        let mut wider = block;
        let last = wider.len() - 1;
        assert_eq!(wider[last], 3, "the version comes last");
        wider.splice(last.., [0x18, 3]);
        assert!(SignedCommit::decode(&wider).is_err());
    }
}
