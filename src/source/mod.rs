//! Where events come from: live connections, recordings, and a relay to play them back.

pub mod error;
pub mod firehose;
pub mod frame_sink;
pub mod interest;
pub mod process;
pub mod reconnect;
pub mod record;
pub mod silence;
pub mod tracked;

use std::time::Duration;

use futures_util::future::BoxFuture;

use error::{ConnectError, ReadError};
use frame_sink::FrameSink;

use crate::model::SourceId;

/// The longest frame that is taken from a source, in bytes.
///
/// The protocol allows 5,000,000. One that is longer is taken all the same, so that the decoder can
/// set it aside: a frame at which the connection is given up comes again after every reconnect.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// Something that can be followed from a place in its sequence.
pub trait Source: Send + Sync + 'static {
    /// Whose sequence it is. It stays the same wherever redirects lead.
    fn id(&self) -> &SourceId;

    /// Opens a connection that begins at `resume`. It ends by a deadline of its own and may be
    /// dropped at any time.
    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>>;
}

/// The frames of one connection, in the order of the source.
pub trait Frames: Send {
    /// Waits for a frame, then hands over what else comes, until `into` is full or `linger` is over.
    ///
    /// Whatever the outcome, the frames in `into` are good: an error concerns what follows them. The
    /// future may be dropped at any time; what it has handed over stays there, and a later call with
    /// the same `into` goes on from there.
    fn read_batch<'a>(
        &'a mut self,
        linger: Duration,
        into: &'a mut dyn FrameSink,
    ) -> BoxFuture<'a, Result<(), ReadError>>;

    /// Messages of this connection that were no frames of the stream (text) and were passed by.
    fn ignored(&self) -> u64;
}

/// Where a connection is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// After the event with this seq. Servers differ in whether they send that event again.
    After(u64),
    /// With whatever happens next; what happened before is lost.
    Live,
    /// With the oldest event that the source still holds.
    Oldest,
    /// With the event that has this seq, to see that it is still the same one.
    With(u64),
}

impl Resume {
    /// The value of the `cursor` parameter. Zero and none are different things.
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
    }
}
