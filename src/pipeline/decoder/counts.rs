//! Counts the frames of a batch by kind.

use crate::atproto::skim::Kind;
use crate::source::firehose::decode::{Content, Decoded};
use crate::telemetry::metrics::SourceMetrics;

/// The counts of one batch. They are added to the shared counters once a batch.
#[derive(Debug, Default)]
pub(super) struct FrameCounts {
    account: u64,
    pub(super) commit: u64,
    error: u64,
    handle: u64,
    identity: u64,
    info: u64,
    pub(super) malformed: u64,
    /// Those of `malformed` that were read, but prove nothing.
    pub(super) unproven: u64,
    sync: u64,
    tombstone: u64,
    unknown: u64,
    pub(super) bytes: u64,
}

impl FrameCounts {
    pub(super) fn note(&mut self, decoded: &Decoded<'_>) {
        let count = match (decoded.kind, &decoded.content) {
            (Some(Kind::Account), _) => &mut self.account,
            (Some(Kind::Commit), _) => &mut self.commit,
            (Some(Kind::Handle), _) => &mut self.handle,
            (Some(Kind::Identity), _) => &mut self.identity,
            (Some(Kind::Info), _) => &mut self.info,
            (Some(Kind::Sync), _) => &mut self.sync,
            (Some(Kind::Tombstone), _) => &mut self.tombstone,
            (None, Content::Error { .. }) => &mut self.error,
            (None, _) => &mut self.unknown,
        };
        *count += 1;
    }

    /// The frames that say something, true or not.
    pub(super) fn readable(&self) -> u64 {
        self.account
            + self.commit
            + self.handle
            + self.identity
            + self.sync
            + self.tombstone
            + self.unproven
    }

    pub(super) fn unreadable(&self) -> u64 {
        self.malformed - self.unproven
    }

    pub(super) fn count(&self, metrics: &SourceMetrics) {
        let events = &metrics.events;
        for (counter, count) in [
            (&events.account, self.account),
            (&events.commit, self.commit),
            (&events.error, self.error),
            (&events.handle, self.handle),
            (&events.identity, self.identity),
            (&events.info, self.info),
            (&events.malformed, self.malformed),
            (&events.sync, self.sync),
            (&events.tombstone, self.tombstone),
            (&events.unknown, self.unknown),
            (&metrics.received_bytes, self.bytes),
        ] {
            if count > 0 {
                counter.increment(count);
            }
        }
    }
}
