//! Receives the frames of a connection as they are read.

use bytes::Bytes;

/// Receives frames one by one.
///
/// A frame is a slice of the buffer that the socket reads into. A sink that keeps the slice keeps
/// the whole buffer alive, and the socket must allocate a new one.
pub trait FrameSink: Send {
    fn take(&mut self, frame: Bytes);

    fn is_empty(&self) -> bool;

    /// Whether the sink accepts no more frames for now.
    fn is_full(&self) -> bool;
}

/// When a batch is full. Each limit is checked after a frame was added, so a batch may exceed
/// `bytes` by one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    pub frames: usize,
    pub bytes: usize,
}

/// A sink that keeps every frame unchanged.
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
