//! The fingerprint of a dead letter, which identifies it.

use sha2::{Digest, Sha256};

use crate::model::{DeadLetter, SourceId};

/// A SHA-256.
pub type Fingerprint = [u8; 32];

/// Returns the fingerprint. It is the same each time the same bytes of the same event fail. The
/// error text and the number of attempts are not part of it.
pub(super) fn fingerprint(source: &SourceId, letter: &DeadLetter) -> Fingerprint {
    let seq = letter.seq.map(u64::to_be_bytes);
    let parts = [
        Some(source.as_str().as_bytes()),
        seq.as_ref().map(<[u8; 8]>::as_slice),
        letter.uri.as_deref().map(str::as_bytes),
        Some(letter.stage.as_str().as_bytes()),
        Some(letter.raw.as_ref()),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        // The length precedes each part, so that different lists of parts never give the same
        // bytes.
        hash.update(
            part.map_or(u64::MAX, |part| part.len() as u64)
                .to_be_bytes(),
        );
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Stage;

    fn letter(uri: Option<&str>, raw: &'static str) -> DeadLetter {
        DeadLetter {
            stage: Stage::Decode,
            error: "no CAR".to_owned(),
            seq: Some(7),
            did: None,
            uri: uri.map(str::to_owned),
            task: None,
            raw: Bytes::from_static(raw.as_bytes()),
            attempts: 1,
        }
    }

    fn print(letter: &DeadLetter) -> Fingerprint {
        fingerprint(&SourceId::new("wss://relay.example"), letter)
    }

    /// Holds invariant 2.7.
    #[test]
    fn a_second_failure_of_the_same_bytes_has_the_same_fingerprint() {
        let first = letter(None, "raw");
        let second = DeadLetter {
            error: "still no CAR".to_owned(),
            attempts: 4,
            ..first.clone()
        };
        assert_eq!(print(&first), print(&second));
    }

    #[test]
    fn other_parts_give_another_fingerprint() {
        let base = print(&letter(None, "raw"));
        assert_ne!(base, print(&letter(Some(""), "raw")));
        assert_ne!(base, print(&letter(None, "war")));
        assert_ne!(
            base,
            print(&DeadLetter {
                seq: None,
                ..letter(None, "raw")
            })
        );
        assert_ne!(
            print(&letter(Some("ab"), "c")),
            print(&letter(Some("a"), "bc"))
        );
    }
}
