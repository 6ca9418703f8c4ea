//! Consecutive segments of one source.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::segment::Segment;

/// Consecutive segments of one source.
#[derive(Clone, Debug)]
pub struct FrameSpan {
    pub(super) batch: Arc<[Segment]>,
    /// The range of `batch` that this span covers.
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

    /// The frames to read.
    pub fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.segments().iter().filter_map(|segment| match segment {
            Segment::Frame(frame) => Some(frame),
            Segment::Skipped(_) | Segment::ReconnectMarker(_) => None,
        })
    }

    /// The number of stream frames that this span covers.
    pub fn events(&self) -> u64 {
        self.segments().iter().map(Segment::events).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.segments().iter().map(Segment::weight).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.part.len()
    }

    /// Cuts off and returns the segments from index `at` on; `None` if either side would be empty.
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
