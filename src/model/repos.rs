//! Figures about repositories: how they stand, and what a fetch has changed.

use jiff::Timestamp;
use serde::Serialize;

/// How the tracked repositories stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepoCounts {
    /// All of them.
    pub tracked: u64,
    /// To be fetched as a whole.
    pub desynchronized: u64,
    /// Being fetched.
    pub resyncing: u64,
    /// To be fetched once their hosts allow it.
    pub throttled: u64,
    /// To be asked whether they are where they are thought to be.
    pub doubted: u64,
    /// Of which commits wait for a key, or for the repository to be fetched.
    pub waiting: u64,
    /// The commits that wait.
    #[serde(rename = "waiting_commits")]
    pub parked_commits: u64,
    pub backfill: BackfillCounts,
}

/// How far the backfill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackfillCounts {
    /// Collections whose repositories are still being looked for.
    pub enumerating: u64,
    /// Repositories that were fetched since the search began.
    pub fetched: u64,
    /// Repositories that are still to be fetched.
    pub left: u64,
    /// Those of them that were tried, so far in vain.
    pub failing: u64,
}

impl BackfillCounts {
    /// Whether everything was tried that a directory has named.
    pub fn is_over(&self) -> bool {
        self.enumerating == 0 && self.left <= self.failing
    }
}

/// What a repository has come to, and what that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resynced {
    pub rev: String,
    pub data: String,
    /// As of when, by the stream's clock.
    pub time: Timestamp,
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    pub bytes: u64,
}
