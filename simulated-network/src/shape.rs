//! What a network is like.

use fastrand::Rng;

/// How large the network is, and how often what happens. A weight of 0 switches a thing off.
#[derive(Clone, Debug)]
pub struct Shape {
    pub accounts: usize,
    /// The most operations of a commit.
    pub max_ops: usize,
    pub commits: u32,
    /// A commit may write one path twice, as the reference server lets it.
    pub repeats_paths: bool,
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
    /// A frame that nobody can take, or that nobody has to look into.
    pub hostiles: u32,
    /// A message with a seq far ahead of its time; the next one is where it should be.
    pub lies: u32,
    /// A message of a short while ago comes once more.
    pub repeats: u32,
    /// A text message among the frames.
    pub texts: u32,
    /// Of a hundred commits, so many have an operation that nobody can follow.
    pub spoiled_percent: u32,
    /// Of a hundred seqs, so many are followed by a hole.
    pub seq_gaps_percent: u32,
    /// The relay's first seq. After a reset it begins with 1.
    pub first_seq: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            accounts: 8,
            max_ops: 10,
            commits: 80,
            repeats_paths: true,
            identities: 4,
            statuses: 8,
            key_rotations: 2,
            migrations: 2,
            syncs: 2,
            infos: 1,
            unknowns: 2,
            hostiles: 0,
            lies: 0,
            repeats: 0,
            texts: 0,
            spoiled_percent: 0,
            seq_gaps_percent: 5,
            first_seq: 1,
        }
    }
}

/// One thing that may happen.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Commit,
    Hostile,
    Identity,
    Info,
    KeyRotation,
    Lie,
    Migration,
    Repeat,
    Status,
    Sync,
    Text,
    Unknown,
}

impl Shape {
    /// A network with everything that a relay should not say, among what it should.
    pub fn adversarial() -> Self {
        Self {
            hostiles: 15,
            lies: 1,
            repeats: 6,
            texts: 1,
            spoiled_percent: 10,
            ..Self::default()
        }
    }

    /// What happens next.
    pub(crate) fn kind(&self, random: &mut Rng) -> Kind {
        let weights = [
            (Kind::Commit, self.commits),
            (Kind::Hostile, self.hostiles),
            (Kind::Identity, self.identities),
            (Kind::Info, self.infos),
            (Kind::KeyRotation, self.key_rotations),
            (Kind::Lie, self.lies),
            (Kind::Migration, self.migrations),
            (Kind::Repeat, self.repeats),
            (Kind::Status, self.statuses),
            (Kind::Sync, self.syncs),
            (Kind::Text, self.texts),
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
