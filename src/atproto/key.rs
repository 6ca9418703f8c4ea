//! Public keys of accounts, and the verification of signatures.
//!
//! Spec: <https://atproto.com/specs/cryptography>. The protocol has two curves. A signature is 64
//! bytes, `r` and then `s`, over the SHA-256 of the message. Two values of `s` are mathematically
//! valid; only the lower one is allowed, so that a third party cannot derive a second valid
//! signature from the first.
//!
//! libsecp256k1 and ring verify, because they take less than half of the time of the Rust
//! implementations. What they accept differs: ring takes the higher `s`, and libsecp256k1 takes
//! points in the hybrid form. So the form of points and numbers is checked here, before either
//! library sees them, and is the same for both curves.

use std::fmt;
use std::str::FromStr;

use cid::multibase::{self, Base};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use self::scalars::Order;

mod scalars;

#[cfg(test)]
mod comparison;
#[cfg(test)]
mod tests;

/// The varint of the multicodec of a secp256k1 public key.
const K256: [u8; 2] = [0xe7, 0x01];
/// The varint of the multicodec of a P-256 public key.
const P256: [u8; 2] = [0x80, 0x24];

/// The length of a signature, in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// The length of a compressed point (one coordinate, and the sign of the other), in bytes.
const COMPRESSED_POINT: usize = 33;

/// The length of an uncompressed point (both coordinates), in bytes.
const UNCOMPRESSED_POINT: usize = 65;

/// The longest text that is decoded as a key, in characters. An uncompressed point, the longest
/// valid key, has 90; the time of decoding grows with the square of the length.
const MAX_TEXT: usize = 128;

/// A key that verifies commits: a point that is known to be on its curve. It is parsed once, and then
/// cheap to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey(Point);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    K256(secp256k1::PublicKey),
    /// Uncompressed, because ring takes no other form.
    P256([u8; UNCOMPRESSED_POINT]),
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

/// The key as a Multikey: base58btc of the curve's multicodec and the compressed point.
impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, point) = match &self.0 {
            Point::K256(key) => (K256, key.serialize()),
            Point::P256(point) => (P256, compressed(point)),
        };
        let bytes = [&kind[..], &point].concat();
        f.write_str(&multibase::encode(Base::Base58Btc, bytes))
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
        let signature: &[u8; SIGNATURE_BYTES] = signature
            .try_into()
            .map_err(|_| SignatureError::Length(signature.len()))?;
        let is_made_by_key = match &self.0 {
            Point::K256(key) => {
                Order::K256.check(signature)?;
                let digest = secp256k1::Message::from_digest(Sha256::digest(message).into());
                secp256k1::ecdsa::Signature::from_compact(signature)
                    .is_ok_and(|signature| signature.verify(digest, key).is_ok())
            }
            Point::P256(point) => {
                Order::P256.check(signature)?;
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
        };
        match is_made_by_key {
            true => Ok(()),
            false => Err(SignatureError::Mismatch),
        }
    }

    fn k256(point: &[u8]) -> Result<Self, KeyError> {
        check_form(point)?;
        secp256k1::PublicKey::from_slice(point)
            .map(|point| Self(Point::K256(point)))
            .map_err(|_| KeyError::Point)
    }

    fn p256(point: &[u8]) -> Result<Self, KeyError> {
        check_form(point)?;
        let point = p256::PublicKey::from_sec1_bytes(point).map_err(|_| KeyError::Point)?;
        let uncompressed = point.to_encoded_point(false);
        let bytes = uncompressed.as_bytes().try_into();
        bytes
            .map(|bytes| Self(Point::P256(bytes)))
            .map_err(|_| KeyError::Point)
    }
}

/// Checks that a point is written as documents write one: compressed, beginning with 2 or 3, or
/// uncompressed, beginning with 4. There are other forms, of which each library knows some.
fn check_form(point: &[u8]) -> Result<(), KeyError> {
    match (point.first(), point.len()) {
        (Some(2 | 3), COMPRESSED_POINT) | (Some(4), UNCOMPRESSED_POINT) => Ok(()),
        _ => Err(KeyError::Point),
    }
}

/// The x coordinate of an uncompressed point, behind the sign of y.
fn compressed(point: &[u8; UNCOMPRESSED_POINT]) -> [u8; COMPRESSED_POINT] {
    let mut compressed = [0; COMPRESSED_POINT];
    compressed.copy_from_slice(&point[..COMPRESSED_POINT]);
    compressed[0] = 2 + (point[UNCOMPRESSED_POINT - 1] & 1);
    compressed
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
