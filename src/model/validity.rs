//! The result of lexicon validation.

/// The result of lexicon validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    /// Kept, because the policy of its collection is `flag`.
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
