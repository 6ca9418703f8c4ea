//! What a lexicon says of a record.

/// What the lexicon said of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    /// Kept all the same, since the policy of its collection is `flag`.
    Invalid {
        reason: String,
    },
    /// No schema is known, or the policy of its collection is `off`.
    Unvalidated,
}

impl Validity {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid { .. } => "invalid",
            Self::Unvalidated => "unvalidated",
        }
    }
}
