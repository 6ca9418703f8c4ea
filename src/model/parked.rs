//! Why commits are parked, and how many for each reason.

use jiff::Timestamp;
use serde::Serialize;

/// What a parked commit waits for. The column `reason` has what it was when the commit was parked;
/// figures have what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParkedReason {
    /// What is its account's own: its host or that of its `did:web` gives no answer, its rev is ahead
    /// of the clocks, or it was looked up or fetched too often. Or commits of it that are parked. An
    /// account can have its commits wait
    /// so for ever, so this is no lag of the worker.
    Account,
    /// Its account is not active.
    Inactive,
    /// The PLC directory, which has the key of its account, or the replay itself.
    Key,
    /// Its repository has to be fetched, and was not tried yet.
    Repository,
}

impl ParkedReason {
    pub const ALL: [Self; 4] = [Self::Account, Self::Inactive, Self::Key, Self::Repository];

    /// The text of the column `reason`, and of the label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Inactive => "inactive",
            Self::Key => "key",
            Self::Repository => "repository",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// Whether the commit is late because of the worker, or of what all accounts share. No account
    /// can bring this about for others, or hide it.
    pub fn is_lag(self) -> bool {
        match self {
            Self::Key | Self::Repository => true,
            Self::Account | Self::Inactive => false,
        }
    }
}

/// The parked commits, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParkedCounts {
    pub account: ParkedCount,
    pub inactive: ParkedCount,
    pub key: ParkedCount,
    pub repository: ParkedCount,
}

/// Parked commits that wait for the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParkedCount {
    pub commits: u64,
    /// When the oldest of them was parked.
    pub oldest_at: Option<Timestamp>,
}

impl ParkedCounts {
    pub fn of(&self, reason: ParkedReason) -> ParkedCount {
        match reason {
            ParkedReason::Account => self.account,
            ParkedReason::Inactive => self.inactive,
            ParkedReason::Key => self.key,
            ParkedReason::Repository => self.repository,
        }
    }

    pub fn of_mut(&mut self, reason: ParkedReason) -> &mut ParkedCount {
        match reason {
            ParkedReason::Account => &mut self.account,
            ParkedReason::Inactive => &mut self.inactive,
            ParkedReason::Key => &mut self.key,
            ParkedReason::Repository => &mut self.repository,
        }
    }

    /// Since when the tables lack parked commits because of the worker, or of what all accounts
    /// share.
    pub fn lagging_since(&self) -> Option<Timestamp> {
        let reasons = ParkedReason::ALL.into_iter();
        let lagging = reasons.filter(|reason| reason.is_lag());
        lagging.filter_map(|reason| self.of(reason).oldest_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 12.8.
    #[test]
    fn what_waits_for_its_own_account_is_no_lag() {
        let at = |seconds| Some(Timestamp::from_second(seconds).unwrap());
        let mut counts = ParkedCounts::default();
        counts.account.oldest_at = at(1);
        counts.inactive.oldest_at = at(2);
        assert_eq!(counts.lagging_since(), None);
        counts.key.oldest_at = at(4);
        assert_eq!(counts.lagging_since(), at(4));
        counts.repository.oldest_at = at(3);
        assert_eq!(counts.lagging_since(), at(3));
    }
}
