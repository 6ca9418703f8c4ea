//! The reasons to fetch a repository again. The rules that set them are elsewhere:
//!
//! | rule | file |
//! |---|---|
//! | a commit does not follow the last one | `chain.rs` |
//! | another event of the stream: an account changes, a commit was refused | `batch.rs` |
//! | the states of a repository: too much is parked, its account was removed | `repository.rs` |
//! | a discovery found it | `mod.rs` |
//! | the host has another head after a gap, or than a disputed commit | `repo/job.rs` |
//! | an operator asks | `cli/resync.rs` |

/// Why a repository has to be fetched as a whole. The columns `repos.cause` and `resyncs.cause` hold
/// it as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncCause {
    /// Its account became active, nothing is known of it, and what it wrote before is wanted.
    Announced,
    /// Records from before the first commit that was seen of it are wanted, or a discovery found it.
    Backfill,
    /// A commit is signed by another key than the account's, and the host has another head.
    Disputed,
    /// Commits may be missing in a gap, and the host has another head.
    Gap,
    /// An operator asked for it.
    Operator,
    /// Too many bytes of its commits were parked, so they were dropped.
    Overflow,
    /// The tree before a commit is not the last one that is known.
    PrevData,
    /// A commit was refused, and records of it are wanted.
    Refused,
    /// Its account is active again. What happened in between is not known.
    Returned,
    /// The rev before a commit is not the last one that is known.
    Since,
    /// A `#sync` names another tree than the last one that is known.
    Sync,
}

impl ResyncCause {
    /// All causes. [`Self::parse`] finds only these.
    pub const ALL: [Self; 11] = [
        Self::Announced,
        Self::Backfill,
        Self::Disputed,
        Self::Gap,
        Self::Operator,
        Self::Overflow,
        Self::PrevData,
        Self::Refused,
        Self::Returned,
        Self::Since,
        Self::Sync,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Backfill => "backfill",
            Self::Disputed => "disputed",
            Self::Gap => "gap",
            Self::Operator => "operator",
            Self::Overflow => "overflow",
            Self::PrevData => "prev_data",
            Self::Refused => "refused",
            Self::Returned => "returned",
            Self::Since => "since",
            Self::Sync => "sync",
        }
    }

    /// The cause that `text` is; `None` for the text of another version.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_read_as_it_was_written() {
        for cause in ResyncCause::ALL {
            assert_eq!(ResyncCause::parse(cause.as_str()), Some(cause));
        }
        assert_eq!(ResyncCause::parse("another"), None);
    }
}
