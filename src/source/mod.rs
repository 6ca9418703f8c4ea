//! Where events come from.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
