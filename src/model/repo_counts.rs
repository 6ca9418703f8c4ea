//! Figures about repositories: how many are in which state, and what a fetch has changed.

use jiff::Timestamp;
use serde::Serialize;

use super::parked::ParkedCounts;

/// The tracked repositories, counted by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepoCounts {
    /// All of them.
    pub tracked: u64,
    /// They have to be fetched as a whole.
    pub desynchronized: u64,
    /// Being fetched.
    pub resyncing: u64,
    /// They are fetched later, because of a cooldown or too many fetches.
    pub throttled: u64,
    /// They are due for a recheck.
    #[serde(rename = "doubted")]
    pub rechecks: u64,
    /// They have parked commits.
    #[serde(rename = "waiting")]
    pub with_parked: u64,
    /// The parked commits.
    #[serde(rename = "waiting_commits")]
    pub parked_commits: u64,
    /// The same by what they wait for.
    pub parked: ParkedCounts,
    pub backfill: BackfillCounts,
}

/// The progress of the backfill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackfillCounts {
    /// Collections whose discovery is running.
    #[serde(rename = "enumerating")]
    pub discovering: u64,
    /// Repositories that were fetched since the discovery began.
    pub fetched: u64,
    /// Repositories that still have to be fetched.
    pub left: u64,
    /// Those of them whose attempts failed so far.
    pub failing: u64,
}

impl BackfillCounts {
    /// Whether every repository that the relay index named was tried.
    pub fn is_over(&self) -> bool {
        self.discovering == 0 && self.left <= self.failing
    }
}

/// The head of a fetched repository, and what changed in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resynced {
    pub rev: String,
    pub data: String,
    /// The time of the snapshot, by the stream's clock.
    pub time: Timestamp,
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    /// Records whose block did not come with the repository, and that the tables do not have.
    pub missing: u64,
    pub bytes: u64,
}
