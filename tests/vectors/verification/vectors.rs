//! Tests proofs with the protocol's own vectors, and with commits of real repositories.
//! Holds invariant 9.4.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cid::Cid;
use cid::multibase::{self, Base};
use data_encoding::{BASE64_NOPAD, HEXLOWER};
use huddle_firehose::atproto::car::Blocks;
use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::mst::{Inversion, ProofFault};
use huddle_firehose::atproto::signed_commit::SignedCommit;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use simulated_network::car::{self, write_car};
use simulated_network::mst::Tree;
use test_support::shared_data::shared_data;

fn cases<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let Some(file) = shared_data(path) else {
        return Vec::new();
    };
    let cases: Vec<T> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(!cases.is_empty());
    cases
}

#[test]
fn signatures_are_valid_or_not_as_the_vectors_say() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        comment: String,
        message_base64: String,
        did_doc_suite: String,
        public_key_did: VerifyingKeyText,
        public_key_multibase: String,
        signature_base64: String,
        valid_signature: bool,
        tags: Vec<String>,
    }
    type VerifyingKeyText = String;
    for case in cases::<Case>("interop/crypto/signature-fixtures.json") {
        let key: VerifyingKey = case.public_key_did.parse().unwrap();
        let older = VerifyingKey::of_method(&case.did_doc_suite, &case.public_key_multibase);
        assert_eq!(older, Ok(key), "{}", case.comment);
        let decode = |text: &str| BASE64_NOPAD.decode(text.as_bytes()).unwrap();
        let message = decode(&case.message_base64);
        let verified = key.verify(&message, &decode(&case.signature_base64));
        assert_eq!(verified.is_ok(), case.valid_signature, "{}", case.comment);
        let multikey = case.public_key_did.trim_start_matches("did:key:");
        let second =
            simulated_network::key::verifies(multikey, &message, &decode(&case.signature_base64));
        assert_eq!(verified.is_ok(), second, "{}", case.comment);
        let is_high = verified == Err(huddle_firehose::atproto::key::SignatureError::HighS);
        assert_eq!(is_high, case.tags.iter().any(|tag| tag == "high-s"));
    }
}

fn of_point(kind: &str, point: &[u8]) -> VerifyingKey {
    let text = multibase::encode(Base::Base58Btc, point);
    VerifyingKey::of_method(kind, &text).unwrap()
}

#[test]
fn a_did_key_is_the_public_key_of_its_private_one() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct K256 {
        private_key_bytes_hex: String,
        public_did_key: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct P256 {
        private_key_bytes_base58: String,
        public_did_key: String,
    }
    for case in cases::<K256>("interop/crypto/w3c_didkey_K256.json") {
        let secret = HEXLOWER.decode(case.private_key_bytes_hex.as_bytes());
        let key = k256::ecdsa::SigningKey::from_slice(&secret.unwrap()).unwrap();
        let point = key.verifying_key().to_encoded_point(false);
        let expected = of_point("EcdsaSecp256k1VerificationKey2019", point.as_bytes());
        assert_eq!(case.public_did_key.parse(), Ok(expected));
    }
    for case in cases::<P256>("interop/crypto/w3c_didkey_P256.json") {
        let (_, secret) = multibase::decode(format!("z{}", case.private_key_bytes_base58)).unwrap();
        let key = p256::ecdsa::SigningKey::from_slice(&secret).unwrap();
        let point = key.verifying_key().to_encoded_point(false);
        let expected = of_point("EcdsaSecp256r1VerificationKey2019", point.as_bytes());
        assert_eq!(case.public_did_key.parse(), Ok(expected));
    }
}

#[test]
fn the_blocks_of_a_commit_proof_are_enough_to_undo_the_commit() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        comment: String,
        leaf_value: String,
        keys: Vec<String>,
        adds: Vec<String>,
        dels: Vec<String>,
        root_before_commit: String,
        root_after_commit: String,
        blocks_in_proof: BTreeSet<String>,
    }
    for case in cases::<Case>("interop/firehose/commit-proof-fixtures.json") {
        let value: Cid = case.leaf_value.parse().unwrap();
        let mut values: BTreeMap<String, Cid> =
            case.keys.iter().map(|key| (key.clone(), value)).collect();
        values.extend(case.adds.iter().map(|key| (key.clone(), value)));
        values.retain(|key, _| !case.dels.contains(key));
        let tree = Tree::build(&values);
        assert_eq!(tree.root.to_string(), case.root_after_commit);

        let created = case.adds.iter().map(|key| (key.as_str(), None));
        let deleted = case.dels.iter().map(|key| (key.as_str(), Some(value)));
        let before: BTreeMap<&str, Option<Cid>> = created.chain(deleted).collect();
        let invert = |nodes: &car::Blocks| {
            let blocks = Blocks::read_all(&write_car(tree.root, nodes)).unwrap();
            Inversion::new(&blocks, tree.root, &before)?.root()
        };
        let mut proof = tree.blocks();
        proof.retain(|cid, _| case.blocks_in_proof.contains(&cid.to_string()));
        let expected = case.root_before_commit.parse().unwrap();
        assert_eq!(invert(&proof), Ok(expected), "{}", case.comment);

        // Without one of them the result is the same, or cannot be computed.
        for cid in proof.keys() {
            let mut without = proof.clone();
            without.remove(cid);
            match invert(&without) {
                Ok(root) => assert_eq!(root, expected, "{}", case.comment),
                Err(error) => {
                    assert_eq!((*error.node, error.fault), (*cid, ProofFault::Missing));
                }
            }
        }
    }
}

#[test]
fn the_commits_of_real_repositories_are_read() {
    let Some(folder) = shared_data("cars") else {
        return;
    };
    let mut read = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "car") {
            continue;
        }
        let blocks = Blocks::read_all(&fs::read(&path).unwrap()).unwrap();
        let commit = SignedCommit::decode(blocks.get(&blocks.root).unwrap());
        commit.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        read += 1;
    }
    assert_eq!(read, 6);
}
