//! The recording in the repository, frame by frame.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::testing::recording;

/// The recording that the repository holds.
pub fn recording_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recordings/testbed.bin")
}

/// The recorded frames, each with a seq, rising.
pub fn frames() -> Vec<Bytes> {
    recording::load(&recording_file()).unwrap()
}

pub fn last_seq(frames: &[Bytes]) -> u64 {
    frames.iter().rev().find_map(|frame| seq_of(frame)).unwrap()
}
