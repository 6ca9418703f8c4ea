//! Public keys of accounts, and the verification of signatures.
//!
//! Spec: <https://atproto.com/specs/cryptography>. The protocol has two curves. A signature is 64
//! bytes, `r` and then `s`, over the SHA-256 of the message. Two values of `s` are mathematically
//! valid; only the lower one is allowed, so that a third party cannot derive a second valid
//! signature from the first.

use std::str::FromStr;

use cid::multibase::{self, Base};
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest, Sha256};

/// The varint of the multicodec of a secp256k1 public key.
const K256: [u8; 2] = [0xe7, 0x01];
/// The varint of the multicodec of a P-256 public key.
const P256: [u8; 2] = [0x80, 0x24];

/// The length of a signature, in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// The length of a compressed point (one coordinate, and the sign of the other), in bytes.
const COMPRESSED_POINT: usize = 33;

/// The longest text that is decoded as a key, in characters. An uncompressed point, the longest
/// valid key, has 90; the time of decoding grows with the square of the length.
const MAX_TEXT: usize = 128;

/// A key that verifies commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyingKey {
    K256(k256::ecdsa::VerifyingKey),
    P256(p256::ecdsa::VerifyingKey),
}

/// Text that is not a key of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key in another encoding than base58btc")]
    Base,
    #[error("a key of a kind that the protocol does not know")]
    Kind,
    #[error("a key of {0} characters, {MAX_TEXT} are allowed")]
    Length(usize),
    #[error("a key that is not a point of its curve")]
    Point,
}

/// Why a signature is not valid for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("a signature with the higher of the two values of s")]
    HighS,
    #[error("a signature of {0} bytes, it must be {SIGNATURE_BYTES}")]
    Length(usize),
    #[error("a signature that is not this key's for this message")]
    Mismatch,
    #[error("a signature with a number outside of the curve's order")]
    Range,
}

impl FromStr for VerifyingKey {
    type Err = KeyError;

    /// Parses a `did:key:…`, or a Multikey, which is the same text without `did:key:`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = base58(text.strip_prefix("did:key:").unwrap_or(text))?;
        let (kind, point) = bytes.split_first_chunk().ok_or(KeyError::Kind)?;
        let read = match *kind {
            K256 => Self::k256,
            P256 => Self::p256,
            _ => return Err(KeyError::Kind),
        };
        match point.len() {
            COMPRESSED_POINT => read(point),
            _ => Err(KeyError::Point),
        }
    }
}

impl VerifyingKey {
    /// Parses the `publicKeyMultibase` of a verification method in a DID document. Older documents
    /// name the curve in `type`; their text then contains only the point.
    ///
    /// # Errors
    /// If `kind` is not a known type of key, or `multibase` is not a key of that type.
    pub fn of_method(kind: &str, multibase: &str) -> Result<Self, KeyError> {
        match kind {
            "Multikey" if !multibase.starts_with("did:") => multibase.parse(),
            "EcdsaSecp256k1VerificationKey2019" => Self::k256(&base58(multibase)?),
            "EcdsaSecp256r1VerificationKey2019" => Self::p256(&base58(multibase)?),
            _ => Err(KeyError::Kind),
        }
    }

    /// Verifies that `signature` was made by this key over the SHA-256 of `message`.
    ///
    /// # Errors
    /// If the key did not make it, or if it does not have the one allowed form.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if signature.len() != SIGNATURE_BYTES {
            return Err(SignatureError::Length(signature.len()));
        }
        let digest = Sha256::digest(message);
        let verified = match self {
            Self::K256(key) => {
                let signature = k256::ecdsa::Signature::from_slice(signature)
                    .map_err(|_| SignatureError::Range)?;
                if signature.normalize_s().is_some() {
                    return Err(SignatureError::HighS);
                }
                key.verify_prehash(&digest, &signature)
            }
            Self::P256(key) => {
                let signature = p256::ecdsa::Signature::from_slice(signature)
                    .map_err(|_| SignatureError::Range)?;
                if signature.normalize_s().is_some() {
                    return Err(SignatureError::HighS);
                }
                key.verify_prehash(&digest, &signature)
            }
        };
        verified.map_err(|_| SignatureError::Mismatch)
    }

    fn k256(point: &[u8]) -> Result<Self, KeyError> {
        k256::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .map(Self::K256)
            .map_err(|_| KeyError::Point)
    }

    fn p256(point: &[u8]) -> Result<Self, KeyError> {
        p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .map(Self::P256)
            .map_err(|_| KeyError::Point)
    }
}

fn base58(multibase: &str) -> Result<Vec<u8>, KeyError> {
    if multibase.len() > MAX_TEXT {
        return Err(KeyError::Length(multibase.len()));
    }
    match multibase::decode(multibase) {
        Ok((Base::Base58Btc, bytes)) => Ok(bytes),
        _ => Err(KeyError::Base),
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use simulated_network::key::SigningKey;

    use super::*;

    fn keys() -> Vec<SigningKey> {
        let mut random = Rng::with_seed(1);
        let keys: Vec<_> = (0..8).map(|_| SigningKey::generate(&mut random)).collect();
        assert!(keys.iter().any(|key| matches!(key, SigningKey::K256(_))));
        assert!(keys.iter().any(|key| matches!(key, SigningKey::P256(_))));
        keys
    }

    fn public(key: &SigningKey) -> VerifyingKey {
        key.public_multibase().parse().unwrap()
    }

    #[test]
    fn a_key_verifies_only_what_it_signed() {
        let keys = keys();
        for key in &keys {
            let signature = key.sign(b"message");
            let public = public(key);
            assert_eq!(public.verify(b"message", &signature), Ok(()));
            let mismatch = Err(SignatureError::Mismatch);
            assert_eq!(public.verify(b"massage", &signature), mismatch);
            for other in keys.iter().map(self::public).filter(|key| *key != public) {
                assert_eq!(other.verify(b"message", &signature), mismatch);
            }
        }
    }

    #[test]
    fn a_signature_has_exactly_one_valid_form() {
        for key in keys() {
            let signature = key.sign(b"message");
            let verify = |signature: &[u8]| public(&key).verify(b"message", signature);
            let high = key.sign_high(b"message");
            assert_eq!(verify(&high), Err(SignatureError::HighS));
            for length in [0, 63, 65, 72] {
                let mut cut = signature.clone();
                cut.resize(length, 0);
                assert_eq!(verify(&cut), Err(SignatureError::Length(length)));
            }
            for out_of_range in [[0; 64], [0xff; 64]] {
                assert_eq!(verify(&out_of_range), Err(SignatureError::Range));
            }
        }
    }

    #[test]
    fn a_key_reads_with_or_without_did_key() {
        for key in keys() {
            let multikey = key.public_multibase();
            let public = public(&key);
            assert_eq!(format!("did:key:{multikey}").parse(), Ok(public));
            assert_eq!(VerifyingKey::of_method("Multikey", &multikey), Ok(public));
        }
    }

    #[test]
    fn an_older_document_names_the_curve_beside_the_point() {
        let encode = |point: &[u8]| multibase::encode(Base::Base58Btc, point);
        for key in keys() {
            let (kind, other, points) = match &key {
                SigningKey::K256(key) => (
                    "EcdsaSecp256k1VerificationKey2019",
                    "EcdsaSecp256r1VerificationKey2019",
                    [true, false]
                        .map(|short| key.verifying_key().to_encoded_point(short).to_bytes()),
                ),
                SigningKey::P256(key) => (
                    "EcdsaSecp256r1VerificationKey2019",
                    "EcdsaSecp256k1VerificationKey2019",
                    [true, false]
                        .map(|short| key.verifying_key().to_encoded_point(short).to_bytes()),
                ),
            };
            for point in points {
                let text = encode(&point);
                assert_eq!(VerifyingKey::of_method(kind, &text), Ok(public(&key)));
                assert_ne!(VerifyingKey::of_method(other, &text), Ok(public(&key)));
            }
        }
    }

    #[test]
    fn text_that_is_not_a_key_is_refused_with_the_reason() {
        let encode = |bytes: &[u8]| multibase::encode(Base::Base58Btc, bytes);
        let point = [&K256[..], &[2; 33]].concat();
        let in_full = [&K256[..], &[4; 65]].concat();
        for (text, error) in [
            (String::new(), KeyError::Base),
            ("did:key:".to_owned(), KeyError::Base),
            (multibase::encode(Base::Base32Lower, point), KeyError::Base),
            ("z0OIl".to_owned(), KeyError::Base),
            ("z".to_owned(), KeyError::Kind),
            (encode(&[0xed, 0x01, 1, 2, 3]), KeyError::Kind),
            (encode(&K256), KeyError::Point),
            (encode(&in_full), KeyError::Point),
            (encode(&[&P256[..], &[0xff; 33]].concat()), KeyError::Point),
            ("z".repeat(MAX_TEXT + 1), KeyError::Length(MAX_TEXT + 1)),
        ] {
            assert_eq!(text.parse::<VerifyingKey>(), Err(error), "{text}");
        }
        let key = keys()[0].public_multibase();
        assert_eq!(
            VerifyingKey::of_method("JsonWebKey", &key),
            Err(KeyError::Kind)
        );
        let did = format!("did:key:{key}");
        assert_eq!(
            VerifyingKey::of_method("Multikey", &did),
            Err(KeyError::Kind)
        );
    }
}
