//! The size of a network, and the frequency of its actions.

use fastrand::Rng;

/// 2026-01-01T00:00:00Z, in microseconds.
const BEGINNING: u64 = 1_767_225_600_000_000;

/// The size of the network, and the weight of each action. The weight 0 disables an action.
#[derive(Clone, Debug)]
pub struct Shape {
    pub accounts: usize,
    /// The largest number of operations in a commit.
    pub max_ops: usize,
    pub commits: u32,
    /// Whether a commit may write one path twice, which the reference server allows.
    pub repeats_paths: bool,
    /// A new handle, or an `#identity` without a change.
    pub identities: u32,
    /// An account is deactivated or reactivated.
    pub statuses: u32,
    /// A new key with `#identity` and `#sync`.
    pub key_rotations: u32,
    /// The contents change without a commit; only a `#sync` announces it.
    pub migrations: u32,
    /// A `#sync` without a change.
    pub syncs: u32,
    pub infos: u32,
    pub unknowns: u32,
    /// An invalid frame, or one whose content no consumer has to decode.
    pub hostiles: u32,
    /// A message with a seq far ahead of its time; the next message has the right seq again.
    pub lies: u32,
    /// A recent message is repeated.
    pub repeats: u32,
    /// A text message among the frames.
    pub texts: u32,
    /// The percentage of commits with an invalid operation.
    pub spoiled_percent: u32,
    /// The percentage of seqs that are followed by a gap.
    pub seq_gaps_percent: u32,
    /// The first seq of the relay. After a restart the seqs begin with 1.
    pub first_seq: u64,
    /// When the network begins, in microseconds since 1970.
    pub beginning: u64,
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
            beginning: BEGINNING,
        }
    }
}

/// An action that may happen.
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
    /// A network that also emits everything that a relay should not emit.
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

    /// The next action.
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
