//! The id of a source, and positions in its sequence.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

/// The id of one sequence of events: the source's URL with scheme, host, port and path, without
/// query.
///
/// Seqs of two hosts, or of two ports of one host, are unrelated. So the whole URL is the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(Arc<str>);

impl SourceId {
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id of the source behind `url`. Credentials, query and fragment are not part of it.
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

/// A position in a source's sequence: everything up to and including `seq` is before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// 0 is the position before the oldest event that the source still holds.
    pub seq: u64,
    /// The `time` of the event with that seq, if known. It helps to tell two sequences with similar
    /// seqs apart.
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
}
