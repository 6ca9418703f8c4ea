//! The decoder and the whole worker, against a network whose truth is known.

mod decoder;
mod verified;
mod worker;

use simulated_network::network::Network;
use simulated_network::shape::Shape;

/// A network without migrations: what happens without a commit takes more than the stream to follow.
fn network(seed: u64) -> Network {
    let shape = Shape {
        migrations: 0,
        ..Shape::default()
    };
    Network::new(seed, shape)
}
