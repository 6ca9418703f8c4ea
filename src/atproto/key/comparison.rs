//! Compares the verification of signatures with a second implementation of both curves, the crates
//! `k256` and `p256`: they must take and refuse the same, for the same reason. Holds invariant 9.4.

use fastrand::Rng;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use proptest::prelude::*;
use simulated_network::key::SigningKey;

use super::*;

const MESSAGE: &[u8] = b"message";

/// A curve of the protocol, as the second implementation sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    K256,
    P256,
}

/// A key as the second implementation reads it.
#[derive(Clone, Copy, Debug)]
enum Second {
    K256(k256::ecdsa::VerifyingKey),
    P256(p256::ecdsa::VerifyingKey),
}

impl Curve {
    const BOTH: [Self; 2] = [Self::K256, Self::P256];

    /// The curve's prime `p` and its order `n`, from the standard (SEC 2), in hex.
    fn prime_and_order(self) -> [[u8; 32]; 2] {
        let hex = match self {
            Self::K256 => [
                b"fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f",
                b"fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
            ],
            Self::P256 => [
                b"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
                b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
            ],
        };
        hex.map(|hex| {
            let bytes = data_encoding::HEXLOWER.decode(hex).unwrap();
            bytes.try_into().unwrap()
        })
    }

    fn signing_key(self, random: &mut Rng) -> SigningKey {
        loop {
            let key = SigningKey::generate(random);
            if matches!(key, SigningKey::K256(_)) == (self == Self::K256) {
                return key;
            }
        }
    }

    fn read(self, point: &[u8]) -> Result<VerifyingKey, KeyError> {
        let kind = match self {
            Self::K256 => "EcdsaSecp256k1VerificationKey2019",
            Self::P256 => "EcdsaSecp256r1VerificationKey2019",
        };
        VerifyingKey::of_method(kind, &multibase::encode(Base::Base58Btc, point))
    }

    /// The forms of the protocol are a rule of ours, which the second implementation does not know.
    fn read_second(self, point: &[u8]) -> Option<Second> {
        let has_form = match point.first()? {
            2 | 3 => point.len() == 33,
            4 => point.len() == 65,
            _ => false,
        };
        let key = match self {
            Self::K256 => k256::ecdsa::VerifyingKey::from_sec1_bytes(point).map(Second::K256),
            Self::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map(Second::P256),
        };
        key.ok().filter(|_| has_form)
    }

    /// The public key for which `signature` over [`MESSAGE`] is valid, though no private key is
    /// known. `None` if `r` is not the x coordinate of a point. Where `is_reduced`, that coordinate
    /// is `r` + `n`.
    fn forge(self, signature: &[u8; 64], is_reduced: bool) -> Option<Vec<u8>> {
        let digest = Sha256::digest(MESSAGE);
        match self {
            Self::K256 => k256::ecdsa::VerifyingKey::recover_from_prehash(
                &digest,
                &k256::ecdsa::Signature::from_slice(signature).ok()?,
                k256::ecdsa::RecoveryId::new(false, is_reduced),
            )
            .map(|key| key.to_encoded_point(false).as_bytes().to_vec())
            .ok(),
            Self::P256 => p256::ecdsa::VerifyingKey::recover_from_prehash(
                &digest,
                &p256::ecdsa::Signature::from_slice(signature).ok()?,
                k256::ecdsa::RecoveryId::new(false, is_reduced),
            )
            .map(|key| key.to_encoded_point(false).as_bytes().to_vec())
            .ok(),
        }
    }
}

impl Second {
    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if signature.len() != SIGNATURE_BYTES {
            return Err(SignatureError::Length(signature.len()));
        }
        let digest = Sha256::digest(message);
        let range = |_| SignatureError::Range;
        let mismatch = |_| SignatureError::Mismatch;
        match self {
            Self::K256(key) => {
                let signature = k256::ecdsa::Signature::from_slice(signature).map_err(range)?;
                if signature.normalize_s().is_some() {
                    return Err(SignatureError::HighS);
                }
                key.verify_prehash(&digest, &signature).map_err(mismatch)
            }
            Self::P256(key) => {
                let signature = p256::ecdsa::Signature::from_slice(signature).map_err(range)?;
                if signature.normalize_s().is_some() {
                    return Err(SignatureError::HighS);
                }
                key.verify_prehash(&digest, &signature).map_err(mismatch)
            }
        }
    }

    /// The point without a choice of form: both coordinates.
    fn uncompressed(&self) -> Vec<u8> {
        match self {
            Self::K256(key) => key.to_encoded_point(false).as_bytes().to_vec(),
            Self::P256(key) => key.to_encoded_point(false).as_bytes().to_vec(),
        }
    }
}

/// `number` + `addend`, modulo 2^256.
fn plus(mut number: [u8; 32], addend: i32) -> [u8; 32] {
    let mut carry = i64::from(addend);
    for byte in number.iter_mut().rev() {
        carry += i64::from(*byte);
        *byte = u8::try_from(carry.rem_euclid(256)).unwrap();
        carry = carry.div_euclid(256);
    }
    number
}

/// Half of an odd `number`, rounded down.
fn half_of(number: [u8; 32]) -> [u8; 32] {
    let mut rest = 0;
    number.map(|byte| {
        let whole = rest * 256 + u16::from(byte);
        rest = whole % 2;
        u8::try_from(whole / 2).unwrap()
    })
}

/// The numbers at the limits of every rule, and those of a valid signature.
fn numbers(curve: Curve, valid: &[u8]) -> Vec<[u8; 32]> {
    let [p, n] = curve.prime_and_order();
    let half = half_of(n);
    let mut numbers = vec![[0; 32], [0xff; 32], plus([0; 32], 1), plus([0; 32], 2)];
    for limit in [n, half, p] {
        numbers.extend([-2, -1, 0, 1, 2].map(|addend| plus(limit, addend)));
    }
    for part in valid.chunks_exact(32) {
        let part: [u8; 32] = part.try_into().unwrap();
        numbers.extend([part, plus(part, 1), plus(part, -1)]);
    }
    numbers
}

/// The encodings of `point`, given uncompressed, and of what resembles it.
fn encodings(curve: Curve, point: &[u8]) -> Vec<Vec<u8>> {
    let [p, n] = curve.prime_and_order();
    let (x, y) = point[1..].split_at(32);
    let number = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
    let mut encodings = vec![Vec::new(), vec![0], vec![4]];
    let xs = [
        number(x),
        plus(number(x), 1),
        [0; 32],
        [0xff; 32],
        n,
        p,
        plus(p, -1),
    ];
    // Numbers that are a coordinate only after p is subtracted.
    let xs = xs
        .into_iter()
        .chain((1..8).map(|addend| plus(p, addend)))
        .chain((1..8).map(|addend| plus([0; 32], addend)));
    for x in xs {
        for tag in [0, 1, 2, 3, 4, 5, 6, 7, 0x82, 0xff] {
            encodings.push([&[tag], &x[..]].concat());
            for y in [
                number(y),
                number(x.as_slice()),
                [0; 32],
                plus(number(y), 1),
                p,
            ] {
                encodings.push([&[tag], &x[..], &y[..]].concat());
            }
        }
    }
    for length in [1, 32, 33, 34, 64, 66] {
        let mut cut = point.to_vec();
        cut.resize(length, 0);
        encodings.push(cut);
    }
    encodings
}

/// Both implementations read `point` in the same way; the key, if it is one.
fn compare_keys(curve: Curve, point: &[u8]) -> Option<(VerifyingKey, Second)> {
    let second = curve.read_second(point);
    let Ok(first) = curve.read(point) else {
        assert!(second.is_none(), "{curve:?}: {point:02x?} is refused");
        return None;
    };
    let second = second.unwrap_or_else(|| panic!("{curve:?}: {point:02x?} is taken"));
    // However it was written, it is the same key, and can be written in either form.
    assert_eq!(curve.read(&second.uncompressed()), Ok(first));
    assert_eq!(first.to_string().parse(), Ok(first));
    Some((first, second))
}

fn compare_signatures(
    (first, second): &(VerifyingKey, Second),
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let verified = first.verify(message, signature);
    let expected = second.verify(message, signature);
    assert_eq!(verified, expected, "{second:?}: {signature:02x?}");
    verified
}

fn keys_of(curve: Curve, key: &SigningKey) -> (VerifyingKey, Second) {
    let text = key.public_multibase();
    let (_, bytes) = multibase::decode(text).unwrap();
    compare_keys(curve, &bytes[2..]).unwrap()
}

#[test]
fn both_implementations_take_the_same_numbers() {
    let mut random = Rng::with_seed(2);
    for curve in Curve::BOTH {
        let key = curve.signing_key(&mut random);
        let keys = keys_of(curve, &key);
        let valid = key.sign(MESSAGE);
        let numbers = numbers(curve, &valid);
        let mut seen = Vec::new();
        for r in &numbers {
            for s in &numbers {
                seen.push(compare_signatures(&keys, MESSAGE, &[*r, *s].concat()));
            }
        }
        use SignatureError::{HighS, Mismatch, Range};
        for outcome in [Ok(()), Err(HighS), Err(Mismatch), Err(Range)] {
            assert!(seen.contains(&outcome), "{curve:?}: {outcome:?}");
        }
    }
}

#[test]
fn both_implementations_take_the_same_points() {
    let mut random = Rng::with_seed(3);
    for curve in Curve::BOTH {
        let key = curve.signing_key(&mut random);
        let (_, second) = keys_of(curve, &key);
        let signature = key.sign(MESSAGE);
        let encodings = encodings(curve, &second.uncompressed());
        let read = encodings
            .iter()
            .filter_map(|point| compare_keys(curve, point));
        let mut verified = 0;
        for keys in read {
            verified += usize::from(compare_signatures(&keys, MESSAGE, &signature).is_ok());
        }
        assert_eq!(
            verified, 2,
            "{curve:?}: the key compressed and uncompressed"
        );
    }
}

/// The x coordinate of the point that a signature names may be beyond the order: then `r` is what is
/// left of it, and an implementation that compares them as they are refuses a valid signature.
#[test]
fn both_implementations_take_a_signature_whose_point_is_beyond_the_order() {
    for curve in Curve::BOTH {
        for is_reduced in [false, true] {
            let mut forged = 0;
            for r in 1..64 {
                let s = plus([0; 32], 0x1234);
                let signature: [u8; 64] = [plus([0; 32], r), s].concat().try_into().unwrap();
                let Some(point) = curve.forge(&signature, is_reduced) else {
                    continue;
                };
                let keys = compare_keys(curve, &point).unwrap();
                assert_eq!(compare_signatures(&keys, MESSAGE, &signature), Ok(()));
                forged += 1;
            }
            assert!(forged > 8, "{curve:?}, reduced: {is_reduced}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn both_implementations_agree_about_damaged_signatures(
        seed: u64,
        message in prop::collection::vec(any::<u8>(), 0..100),
        flips in prop::collection::vec(0..512_usize, 0..4),
        length in prop_oneof![8 => Just(64_usize), 1 => 0..130_usize],
    ) {
        let mut random = Rng::with_seed(seed);
        for curve in Curve::BOTH {
            let key = curve.signing_key(&mut random);
            let keys = keys_of(curve, &key);
            let mut signatures = [key.sign(&message), key.sign_high(&message)];
            for signature in &mut signatures {
                for flip in &flips {
                    signature[flip / 8] ^= 1 << (flip % 8);
                }
                signature.resize(length, 0xa5);
                let _same = compare_signatures(&keys, &message, signature);
            }
        }
    }

    #[test]
    fn both_implementations_agree_about_damaged_keys(
        seed: u64,
        is_compressed: bool,
        flips in prop::collection::vec(0..520_usize, 0..4),
    ) {
        let mut random = Rng::with_seed(seed);
        for curve in Curve::BOTH {
            let key = curve.signing_key(&mut random);
            let (_, second) = keys_of(curve, &key);
            let mut point = second.uncompressed();
            if is_compressed {
                point[0] = 2 + (point[64] & 1);
                point.truncate(33);
            }
            for flip in &flips {
                let index = flip / 8 % point.len();
                point[index] ^= 1 << (flip % 8);
            }
            let signature = key.sign(MESSAGE);
            if let Some(keys) = compare_keys(curve, &point) {
                let _same = compare_signatures(&keys, MESSAGE, &signature);
            }
        }
    }
}
