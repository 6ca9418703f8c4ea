//! What a network is like.

use fastrand::Rng;

/// How large the network is, and how often what happens. A weight of 0 switches a thing off.
#[derive(Clone, Debug)]
pub struct Shape {
    pub accounts: usize,
    /// The most operations of a commit.
    pub max_ops: usize,
    pub commits: u32,
    /// A handle changes, or nothing does.
    pub identities: u32,
    /// An account leaves, or comes back.
    pub statuses: u32,
    /// `#identity` and `#sync` by a new key.
    pub key_rotations: u32,
    /// The contents change without a commit, which only a `#sync` tells.
    pub migrations: u32,
    /// A `#sync` that says what is known.
    pub syncs: u32,
    pub infos: u32,
    pub unknowns: u32,
    /// Of a hundred seqs, so many are followed by a hole.
    pub seq_gaps_percent: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            accounts: 8,
            max_ops: 10,
            commits: 80,
            identities: 4,
            statuses: 8,
            key_rotations: 2,
            migrations: 2,
            syncs: 2,
            infos: 1,
            unknowns: 2,
            seq_gaps_percent: 5,
        }
    }
}

/// One thing that may happen.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Commit,
    Identity,
    Info,
    KeyRotation,
    Migration,
    Status,
    Sync,
    Unknown,
}

impl Shape {
    /// What happens next.
    pub(crate) fn kind(&self, random: &mut Rng) -> Kind {
        let weights = [
            (Kind::Commit, self.commits),
            (Kind::Identity, self.identities),
            (Kind::Info, self.infos),
            (Kind::KeyRotation, self.key_rotations),
            (Kind::Migration, self.migrations),
            (Kind::Status, self.statuses),
            (Kind::Sync, self.syncs),
            (Kind::Unknown, self.unknowns),
        ];
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut point = random.u32(..total);
        for (kind, weight) in weights {
            if point < weight {
                return kind;
            }
            point -= weight;
        }
        Kind::Commit
    }
}
