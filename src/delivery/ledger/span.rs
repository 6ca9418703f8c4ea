//! Consecutive segments of one source.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::segment::Segment;

/// Consecutive segments of one source.
#[derive(Clone, Debug)]
pub struct FrameSpan {
    pub(super) batch: Arc<[Segment]>,
    /// The part of `batch` that this span is.
    pub(super) part: Range<usize>,
    pub(super) first_frame: u64,
}

impl FrameSpan {
    /// The numbers of the segments.
    pub fn numbers(&self) -> Range<u64> {
        self.first_frame..self.first_frame + self.part.len() as u64
    }

    pub fn segments(&self) -> &[Segment] {
        &self.batch[self.part.clone()]
    }

    /// The frames that are to be read.
    pub fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.segments().iter().filter_map(|segment| match segment {
            Segment::Frame(frame) => Some(frame),
            Segment::Skipped(_) | Segment::ReconnectMarker => None,
        })
    }

    /// How many frames of the stream it stands for.
    pub fn events(&self) -> u64 {
        self.segments().iter().map(Segment::events).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.segments().iter().map(Segment::weight).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.part.len()
    }

    /// Cuts off and returns the segments from the `at`-th on; `None` where there are none on one side.
    pub(super) fn split_off(&mut self, at: usize) -> Option<Self> {
        if at == 0 || at >= self.part.len() {
            return None;
        }
        let middle = self.part.start + at;
        let second = Self {
            batch: self.batch.clone(),
            part: middle..self.part.end,
            first_frame: self.first_frame + at as u64,
        };
        self.part.end = middle;
        Some(second)
    }
}
