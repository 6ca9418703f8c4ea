//! The metric handles of one source.

use metrics::Counter;

use super::names;
use super::registry::Registry;
use crate::model::SourceId;

/// The metrics that the actors of one source write.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    pub events: EventCounters,
    /// Bytes of the frames, as read from the socket.
    pub received_bytes: Counter,
}

/// Events read from the source, by kind. Each frame is counted once.
#[derive(Clone, Debug)]
pub struct EventCounters {
    pub account: Counter,
    pub commit: Counter,
    /// Error frames (`op` -1).
    pub error: Counter,
    /// The retired `#handle`.
    pub handle: Counter,
    pub identity: Counter,
    pub info: Counter,
    /// Frames that could not be decoded.
    pub malformed: Counter,
    pub sync: Counter,
    /// The retired `#tombstone`.
    pub tombstone: Counter,
    /// Frames of a type that this version does not know.
    pub unknown: Counter,
}

impl SourceMetrics {
    pub(super) fn new(registry: &Registry, source: &SourceId) -> Self {
        let source = ("source", source.as_str());
        let events = |kind| registry.counter(names::EVENTS_TOTAL, &[source, ("kind", kind)]);
        Self {
            events: EventCounters {
                account: events("account"),
                commit: events("commit"),
                error: events("error"),
                handle: events("handle"),
                identity: events("identity"),
                info: events("info"),
                malformed: events("malformed"),
                sync: events("sync"),
                tombstone: events("tombstone"),
                unknown: events("unknown"),
            },
            received_bytes: registry.counter(names::RECEIVED_BYTES_TOTAL, &[source]),
        }
    }
}
