//! The whole tree against a simulated network, whose state is known.

pub mod tables;
pub mod verified;

use std::time::Duration;

use huddle_firehose::config::{Config, Layers, Verify};
use simulated_network::relay::Relay;

pub fn config(relay: &Relay, database_url: &str) -> Config {
    let mut config = Layers::new().resolve().unwrap().config;
    config.source_url = relay.url().parse().unwrap();
    config.database_url = database_url.to_owned();
    config.verify = Verify::None;
    config.validation = "flag".parse().unwrap();
    config.collections = vec!["com.huddle.*".parse().unwrap()];
    // Small, so that batches often end in the middle of a sequence of related events.
    config.batch_frames = 7;
    config.index_batch = 5;
    config.decoders = 3;
    config.checkpoint_interval = Duration::from_millis(20);
    config.reconnect_min = Duration::from_millis(10);
    config
}
