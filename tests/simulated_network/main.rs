//! The decoder and the whole worker, against a network whose truth is known.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod decoder;
mod tables;
mod worker;

use simulated_network::network::Network;
use simulated_network::shape::Shape;

/// What happens without a commit takes more than the stream to follow.
const WITHOUT_MIGRATIONS: Shape = Shape {
    accounts: 8,
    max_ops: 10,
    commits: 80,
    identities: 4,
    statuses: 8,
    key_rotations: 2,
    migrations: 0,
    syncs: 2,
    infos: 1,
    unknowns: 2,
    seq_gaps_percent: 5,
};

fn network(seed: u64) -> Network {
    Network::new(seed, WITHOUT_MIGRATIONS)
}
