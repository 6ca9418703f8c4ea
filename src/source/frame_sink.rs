//! What takes the frames of a connection as they are read.

use bytes::Bytes;

/// Takes frames one by one, as they are read.
///
/// A frame is a piece of the buffer that the socket is read into. Who holds on to it holds on to all
/// of that buffer, and has the socket read into a new one.
pub trait FrameSink: Send {
    fn take(&mut self, frame: Bytes);

    fn is_empty(&self) -> bool;

    /// Whether it wants no more for now.
    fn is_full(&self) -> bool;
}

/// When a batch is full. Each limit is checked after a frame was taken, so that a batch may exceed
/// `bytes` by one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    pub frames: usize,
    pub bytes: usize,
}

/// An intake that keeps every frame as it is.
#[derive(Debug)]
pub struct FrameCollector {
    limits: BatchLimits,
    pub frames: Vec<Bytes>,
}

impl FrameCollector {
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            frames: Vec::new(),
        }
    }
}

impl FrameSink for FrameCollector {
    fn take(&mut self, frame: Bytes) {
        self.frames.push(frame);
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn is_full(&self) -> bool {
        let bytes: usize = self.frames.iter().map(Bytes::len).sum();
        self.frames.len() >= self.limits.frames || bytes >= self.limits.bytes
    }
}
