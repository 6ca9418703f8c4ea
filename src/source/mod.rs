//! Sources of events: live connections, and the recording of their frames.
//!
//! A new kind of source implements [`Source`] and [`Frames`]; `worker/build.rs` builds it. Frames of
//! another form than the firehose's also change `pipeline/connection.rs`, `pipeline/decoder/`,
//! `process/` and `repo/replay.rs`: see `docs/architecture.md`.

pub mod clock;
pub mod error;
pub mod firehose;
pub mod frame_sink;
pub mod interest;
pub mod process;
pub mod readability;
pub mod reconnect;
pub mod recorder;
pub mod silence;
pub mod tracked;

use std::time::Duration;

use futures_util::future::BoxFuture;

use error::{ConnectError, ReadError};
use frame_sink::FrameSink;

use crate::model::SourceId;

/// A sequence of events that can be read from a position.
pub trait Source: Send + Sync + 'static {
    /// The id of the sequence. Redirects do not change it.
    fn id(&self) -> &SourceId;

    /// Opens a connection that begins at `resume`. It has its own deadline, and the future may be
    /// dropped at any time.
    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>>;
}

/// The frames of one connection, in the order of the source.
pub trait Frames: Send {
    /// Waits for a frame, then adds further frames until `into` is full or `linger` is over.
    ///
    /// After an error the frames in `into` are still valid: the error concerns what follows them.
    /// The future may be dropped at any time. The frames that were added stay in `into`, and a
    /// later call with the same `into` continues from there.
    fn read_batch<'a>(
        &'a mut self,
        linger: Duration,
        into: &'a mut dyn FrameSink,
    ) -> BoxFuture<'a, Result<(), ReadError>>;

    /// The number of text messages on this connection. They are not frames of the stream, and were
    /// ignored.
    fn ignored(&self) -> u64;
}

/// Where a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// After the event with this seq. Some servers send that event again.
    After(u64),
    /// At the next new event. Earlier events are missed.
    Live,
    /// At the oldest event that the source still holds.
    Oldest,
    /// At the event with this seq, to check that it is still the same event.
    With(u64),
}

impl Resume {
    /// Whether the connection begins at the event with the given seq, not after it.
    pub fn is_inclusive(self) -> bool {
        matches!(self, Self::With(_))
    }

    /// The value of the `cursor` parameter. Zero and no cursor are different.
    pub fn cursor(self) -> Option<u64> {
        match self {
            Self::After(seq) => Some(seq),
            Self::Live => None,
            Self::Oldest => Some(0),
            Self::With(seq) => Some(seq.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_event_and_the_live_end_are_asked_for_differently() {
        assert_eq!(Resume::Oldest.cursor(), Some(0));
        assert_eq!(Resume::Live.cursor(), None);
        assert_eq!(Resume::After(7).cursor(), Some(7));
        assert_eq!(Resume::With(7).cursor(), Some(6));
        assert!(Resume::With(7).is_inclusive());
        assert!(!Resume::After(7).is_inclusive());
    }
}
