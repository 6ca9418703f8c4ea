//! Where events come from: live connections, recordings, and a relay to play them back.

pub mod address;
pub mod cursor;
mod dial;
pub mod error;
pub mod intake;
pub mod mock_relay;
pub mod reconnect;
pub mod record;
pub mod recording;
pub(crate) mod redirect;
pub mod retry_after;
pub mod silence;
pub(crate) mod tls;
pub mod websocket;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use error::{ConnectError, ReadError};
use intake::Intake;

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
        into: &'a mut dyn Intake,
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

/// Names one sequence of events: the source's URL with scheme, host, port and path, without query.
///
/// Seqs of two hosts, or of one host behind two ports, have nothing to do with each other, so the
/// whole URL is the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(Arc<str>);

impl SourceId {
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id of the source behind `url`. Credentials, query and fragment are no part of it.
    pub fn of(url: &Url) -> Self {
        let scheme = url.scheme();
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}"));
        let path = url.path();
        Self(format!("{scheme}://{host}{}{path}", port.unwrap_or_default()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a source's sequence: everything up to and including `seq` lies behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// 0 is the place before the oldest event that the source still holds.
    pub seq: u64,
    /// The `time` of the event with that seq, where it is known. It tells one sequence space from
    /// another that happens to have similar numbers.
    pub time: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_url_without_query_and_credentials() {
        let id = |url: &str| SourceId::of(&Url::parse(url).unwrap()).to_string();
        assert_eq!(
            id("wss://user:secret@Relay.example/xrpc/s?cursor=3#x"),
            "wss://relay.example/xrpc/s"
        );
        assert_eq!(id("ws://[::1]:2583/s"), "ws://[::1]:2583/s");
        assert_eq!(id("wss://relay.example:443/s"), "wss://relay.example/s");
        assert_ne!(id("ws://relay.example/s"), id("wss://relay.example/s"));
    }

    #[test]
    fn the_oldest_event_and_the_live_end_are_asked_for_differently() {
        assert_eq!(Resume::Oldest.cursor(), Some(0));
        assert_eq!(Resume::Live.cursor(), None);
        assert_eq!(Resume::After(7).cursor(), Some(7));
        assert_eq!(Resume::With(7).cursor(), Some(6));
    }
}
