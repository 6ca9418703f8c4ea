//! Tests the decoder and the whole worker against a simulated network, whose state is known.

mod decoder;
mod verified;
mod worker;

use simulated_network::network::Network;
use simulated_network::shape::Shape;

/// A network without migrations: they change repositories without a commit, so the stream alone
/// does not describe them.
fn network(seed: u64) -> Network {
    let shape = Shape {
        migrations: 0,
        ..Shape::default()
    };
    Network::new(seed, shape)
}
