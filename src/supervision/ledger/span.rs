//! Consecutive frames of one source.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Consecutive frames of one source.
#[derive(Clone, Debug)]
pub struct FrameSpan {
    pub(super) batch: Arc<[Bytes]>,
    /// The part of `batch` that this span is.
    pub(super) part: Range<usize>,
    pub(super) first_frame: u64,
}

impl FrameSpan {
    /// The numbers of the frames.
    pub fn numbers(&self) -> Range<u64> {
        self.first_frame..self.first_frame + self.part.len() as u64
    }

    pub fn frames(&self) -> &[Bytes] {
        &self.batch[self.part.clone()]
    }

    pub(super) fn bytes(&self) -> usize {
        self.frames().iter().map(Bytes::len).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.part.len()
    }

    /// Cuts off and returns the frames from the `at`-th on; `None` where there are none on one side.
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
