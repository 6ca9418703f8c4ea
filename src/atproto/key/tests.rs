//! Tests the parsing of keys and the form of signatures.

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
                [true, false].map(|short| key.verifying_key().to_encoded_point(short).to_bytes()),
            ),
            SigningKey::P256(key) => (
                "EcdsaSecp256r1VerificationKey2019",
                "EcdsaSecp256k1VerificationKey2019",
                [true, false].map(|short| key.verifying_key().to_encoded_point(short).to_bytes()),
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
