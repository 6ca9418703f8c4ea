//! The replayed frames, as bytes of a WebSocket whose seqs can be overwritten in place.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use huddle_firehose::atproto::skim::{Skim, skim, splice_seq};
use huddle_firehose::testing::recording;

use crate::network;

/// The first seq. From here on each seq takes nine bytes of CBOR.
pub(crate) const FIRST_SEQ: u64 = 1 << 33;

/// Frames in sequence, each with its WebSocket header.
pub(crate) struct Loop {
    pub(crate) bytes: Vec<u8>,
    /// The offsets of the eight bytes of each seq.
    seqs: Vec<usize>,
    /// The end of each frame.
    ends: Vec<usize>,
}

impl Loop {
    pub(crate) fn of(frames: &[Vec<u8>]) -> Self {
        let mut this = Self {
            bytes: Vec::new(),
            seqs: Vec::new(),
            ends: Vec::new(),
        };
        for frame in frames {
            this.push(&splice_seq(frame, FIRST_SEQ).unwrap());
        }
        this
    }

    fn push(&mut self, frame: &[u8]) {
        let Ok(Skim::Message(envelope)) = skim(frame) else {
            panic!("a frame that is no message");
        };
        // FIN and "binary". A server does not mask.
        self.bytes.push(0x82);
        match frame.len() {
            length @ 0..126 => self.bytes.push(length as u8),
            length @ 126..=0xffff => {
                self.bytes.push(126);
                self.bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                self.bytes.push(127);
                self.bytes.extend((length as u64).to_be_bytes());
            }
        }
        // The seq follows the byte with the length of the integer.
        let seq = envelope.seq_span.unwrap().start + 1;
        self.seqs.push(self.bytes.len() + seq);
        self.bytes.extend(frame);
        self.ends.push(self.bytes.len());
    }

    /// The frames one by one.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[*start..*end])
    }

    pub(crate) fn len(&self) -> usize {
        self.seqs.len()
    }

    /// Numbers the frames from `seq` on.
    pub(crate) fn number_from(&mut self, seq: u64) {
        for (seq, &at) in (seq..).zip(&self.seqs) {
            self.bytes[at..at + 8].copy_from_slice(&seq.to_be_bytes());
        }
    }
}

/// Frames without a wanted record: the recording that `BENCH_FRAMES` names, otherwise frames like
/// those of the network.
pub(crate) fn unmatched() -> Vec<Vec<u8>> {
    match std::env::var_os("BENCH_FRAMES") {
        Some(path) => load(path.as_ref()),
        None => network::frames(),
    }
}

/// `matched`, with `others` unmatched frames before each of them.
pub(crate) fn mixed(matched: Vec<Vec<u8>>, others: usize) -> Vec<Vec<u8>> {
    let unmatched = unmatched();
    let mut filler = unmatched.iter().cycle();
    let with_filler = |frame| {
        let filler = filler.by_ref().take(others).cloned().collect::<Vec<_>>();
        filler.into_iter().chain([frame])
    };
    matched.into_iter().flat_map(with_filler).collect()
}

/// The frames of a recording that have a seq.
pub(crate) fn load(path: &Path) -> Vec<Vec<u8>> {
    let frames = recording::load(path).unwrap();
    let has_seq = |frame: &&bytes::Bytes| splice_seq(frame, FIRST_SEQ).is_ok();
    frames
        .iter()
        .filter(has_seq)
        .map(|frame| frame.to_vec())
        .collect()
}

/// Writes `frames` as a recording.
pub(crate) fn save(frames: &[Vec<u8>], path: &Path) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        file.write_all(&length.to_be_bytes()).unwrap();
        file.write_all(frame).unwrap();
    }
    file.flush().unwrap();
}
