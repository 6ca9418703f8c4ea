//! The service's own mock relay, with options for tests.

use std::num::NonZeroU32;

use bytes::Bytes;
use huddle_firehose::testing::mock_relay::{MockRelay, Options};

use crate::recorded_frames::frames;

pub async fn relay(frames: Vec<Bytes>) -> MockRelay {
    MockRelay::start(frames, Options::default()).await.unwrap()
}

pub async fn relay_with(frames: Vec<Bytes>, options: Options) -> MockRelay {
    MockRelay::start(frames, options).await.unwrap()
}

/// Serves slowly enough that a test can stop a worker in the middle. The recording then takes about
/// 0.2 s.
pub fn unhurried() -> Options {
    Options {
        rate: NonZeroU32::new(1500),
        ..Options::default()
    }
}

/// A relay that serves the recorded frames.
pub async fn recorded_relay() -> MockRelay {
    relay(frames()).await
}
