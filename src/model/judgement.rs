//! The rules by which a record was judged.

use sha2::{Digest, Sha256};

/// Identifies the rules by which a record was judged: the policy of its collection, its schema, and
/// the version of the projections. A record that was judged by other rules has to be judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Judgement(i64);

impl Judgement {
    /// The judgement by these rules. Each part is text that differs when the rule does.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two lists of parts are hashed as the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let start = hash.finalize().into_iter().take(8);
        Self(start.fold(0, |bits, byte| bits << 8 | i64::from(byte)))
    }

    /// The judgement that a row stores as this number.
    pub fn from_stored(number: i64) -> Self {
        Self(number)
    }

    /// The number that a row stores.
    pub fn stored(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_division_into_parts_is_another_judgement() {
        assert_eq!(Judgement::of(["flag", "1"]), Judgement::of(["flag", "1"]));
        assert_ne!(Judgement::of(["flag", "1"]), Judgement::of(["fla", "g1"]));
        assert_ne!(Judgement::of(["flag"]), Judgement::of(["flag", ""]));
    }
}
