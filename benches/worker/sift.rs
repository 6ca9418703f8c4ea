//! The unmatched path alone, for a tool that counts its instructions (`scripts/instructions.sh`).

use std::sync::Arc;

use bytes::Bytes;
use huddle_firehose::atproto::skim::splice_seq;
use huddle_firehose::source::firehose::prefilter::Prefilter;
use huddle_firehose::source::frame_sink::{BatchLimits, FrameSink};
use huddle_firehose::source::interest::Interest;

use crate::network;

pub(crate) const COMMAND: &str = "sift";

/// Filters the network's frames as often as the argument says, and prints the number of frames.
pub(crate) fn run(arguments: &[String]) {
    let [times] = arguments else {
        panic!("sift TIMES");
    };
    let times: usize = times.parse().unwrap();
    let frames = network::frames();
    let in_order = (1..).zip(&frames);
    let frames: Vec<Bytes> = in_order
        .map(|(seq, frame)| splice_seq(frame, seq).unwrap().into())
        .collect();
    let interest = Arc::new(Interest::new(["com.huddle.*".parse().unwrap()]));
    let limits = BatchLimits {
        frames: 256,
        bytes: 512 * 1024,
    };
    let mut passed = 0;
    for _ in 0..times {
        let mut prefilter = Prefilter::new(interest.clone(), limits);
        frames
            .iter()
            .cloned()
            .for_each(|frame| prefilter.take(frame));
        passed += prefilter
            .into_segments()
            .iter()
            .map(|p| p.events())
            .sum::<u64>();
    }
    println!("{passed}");
}
