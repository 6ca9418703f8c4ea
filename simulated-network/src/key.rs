//! Signing keys of both curves that the protocol allows.

use cid::multibase::{self, Base};
use k256::ecdsa::signature::{Signer as _, Verifier as _};

/// The varint multicodec of a compressed secp256k1 public key.
const K256_PREFIX: [u8; 2] = [0xe7, 0x01];
/// The varint multicodec of a compressed P-256 public key.
const P256_PREFIX: [u8; 2] = [0x80, 0x24];

#[derive(Clone, Debug)]
pub enum SigningKey {
    K256(k256::ecdsa::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl SigningKey {
    /// A key of either curve, generated from `random`.
    pub fn generate(random: &mut fastrand::Rng) -> Self {
        let is_k256 = random.bool();
        loop {
            let mut secret = [0; 32];
            random.fill(&mut secret);
            // A few numbers are not valid secrets: zero, and those beyond the curve's order.
            let key = if is_k256 {
                k256::ecdsa::SigningKey::from_slice(&secret).map(Self::K256)
            } else {
                p256::ecdsa::SigningKey::from_slice(&secret).map(Self::P256)
            };
            if let Ok(key) = key {
                return key;
            }
        }
    }

    /// Signs the SHA-256 of `message`: 64 bytes, `r` and then the lower of the two `s`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::K256(key) => {
                let signature: k256::ecdsa::Signature = key.sign(message);
                let signature = signature.normalize_s().unwrap_or(signature);
                signature.to_bytes().to_vec()
            }
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                let signature = signature.normalize_s().unwrap_or(signature);
                signature.to_bytes().to_vec()
            }
        }
    }

    /// The same signature with the higher of the two `s`, which the protocol forbids.
    pub fn sign_high(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.sign(message);
        match self {
            Self::K256(_) => k256::ecdsa::Signature::from_slice(&signature)
                .and_then(|low| {
                    let (r, s) = low.split_scalars();
                    k256::ecdsa::Signature::from_scalars(r, -s)
                })
                .map(|high| high.to_bytes().to_vec()),
            Self::P256(_) => p256::ecdsa::Signature::from_slice(&signature)
                .and_then(|low| {
                    let (r, s) = low.split_scalars();
                    p256::ecdsa::Signature::from_scalars(r, -s)
                })
                .map(|high| high.to_bytes().to_vec()),
        }
        .expect("the negative of a scalar is one")
    }

    /// The public key as `publicKeyMultibase` of a DID document.
    pub fn public_multibase(&self) -> String {
        let (prefix, point) = match self {
            Self::K256(key) => {
                let point = key.verifying_key().to_encoded_point(true);
                (K256_PREFIX, point.as_bytes().to_vec())
            }
            Self::P256(key) => {
                let point = key.verifying_key().to_encoded_point(true);
                (P256_PREFIX, point.as_bytes().to_vec())
            }
        };
        multibase::encode(Base::Base58Btc, [&prefix[..], &point].concat())
    }
}

/// Whether `signature` was made over `message` by the key of a DID document, and has the lower `s`.
pub fn verifies(public_multibase: &str, message: &[u8], signature: &[u8]) -> bool {
    let Ok((_, bytes)) = multibase::decode(public_multibase) else {
        return false;
    };
    if let Some(point) = bytes.strip_prefix(&K256_PREFIX) {
        k256::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .and_then(|key| {
                let signature = k256::ecdsa::Signature::from_slice(signature)?;
                key.verify(message, &signature)?;
                Ok(signature.normalize_s().is_none())
            })
            .unwrap_or(false)
    } else if let Some(point) = bytes.strip_prefix(&P256_PREFIX) {
        p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .and_then(|key| {
                let signature = p256::ecdsa::Signature::from_slice(signature)?;
                key.verify(message, &signature)?;
                Ok(signature.normalize_s().is_none())
            })
            .unwrap_or(false)
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_both_curves_verify_and_those_of_other_messages_do_not() {
        let mut random = fastrand::Rng::with_seed(1);
        let keys: Vec<SigningKey> = (0..16).map(|_| SigningKey::generate(&mut random)).collect();
        assert!(keys.iter().any(|key| matches!(key, SigningKey::K256(_))));
        assert!(keys.iter().any(|key| matches!(key, SigningKey::P256(_))));
        for key in keys {
            let public = key.public_multibase();
            let signature = key.sign(b"message");
            assert!(verifies(&public, b"message", &signature));
            assert!(!verifies(&public, b"massage", &signature));
            assert!(!verifies(&public, b"message", &key.sign_high(b"message")));
        }
    }
}
