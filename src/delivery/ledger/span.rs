//! Consecutive portions of one source.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::segment::Portion;

/// Consecutive portions of one source.
#[derive(Clone, Debug)]
pub struct FrameSpan {
    pub(super) batch: Arc<[Portion]>,
    /// The part of `batch` that this span is.
    pub(super) part: Range<usize>,
    pub(super) first_frame: u64,
}

impl FrameSpan {
    /// The numbers of the portions.
    pub fn numbers(&self) -> Range<u64> {
        self.first_frame..self.first_frame + self.part.len() as u64
    }

    pub fn portions(&self) -> &[Portion] {
        &self.batch[self.part.clone()]
    }

    /// The frames that are to be read.
    pub fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.portions().iter().filter_map(|portion| match portion {
            Portion::Frame(frame) => Some(frame),
            Portion::Passed(_) | Portion::Joint => None,
        })
    }

    /// How many frames of the stream it stands for.
    pub fn events(&self) -> u64 {
        self.portions().iter().map(Portion::events).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.portions().iter().map(Portion::weight).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.part.len()
    }

    /// Cuts off and returns the portions from the `at`-th on; `None` where there are none on one side.
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
