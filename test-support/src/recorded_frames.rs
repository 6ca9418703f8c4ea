//! Reads the recording in the repository, frame by frame.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::testing::recording;

/// The path of the recording in the repository.
pub fn recording_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recordings/testbed.bin")
}

/// The recorded frames. Each has a seq, and the seqs ascend.
pub fn frames() -> Vec<Bytes> {
    recording::load(&recording_file()).unwrap()
}

pub fn last_seq(frames: &[Bytes]) -> u64 {
    frames.iter().rev().find_map(|frame| seq_of(frame)).unwrap()
}
