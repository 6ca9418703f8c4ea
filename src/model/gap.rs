//! Ranges of a source's events that may have been missed.

use jiff::Timestamp;

/// A range of a source's events that may have been missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub cause: GapCause,
    /// The last seq known to be applied before the gap.
    pub from_seq: u64,
    pub from_time: Option<Timestamp>,
    /// The first seq after it; `None` until an event arrives.
    pub to_seq: Option<u64>,
    pub to_time: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The server says that the cursor lies ahead of its log.
    FutureCursor,
    /// The server no longer holds the events after the cursor: it says so, or the time since then
    /// shows it.
    OutdatedCursor,
    /// Seqs began anew behind the same URL.
    SequenceReset,
    /// The source was changed for another whose seqs are unrelated.
    SourceChanged,
    /// The chains of several accounts broke within a short time: the source has lost events without
    /// saying so.
    SourceLost,
    /// A new source was followed from its live end, as the operator configured.
    StartedLive,
    /// The operator moved the cursor.
    CursorMoved,
    /// Records are wanted that were not kept before, because the set of interest did not name them.
    InterestWidened,
}

impl GapCause {
    pub const ALL: [Self; 8] = [
        Self::CursorMoved,
        Self::FutureCursor,
        Self::InterestWidened,
        Self::OutdatedCursor,
        Self::SequenceReset,
        Self::SourceChanged,
        Self::SourceLost,
        Self::StartedLive,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::CursorMoved => "cursor_moved",
            Self::FutureCursor => "future_cursor",
            Self::InterestWidened => "interest_widened",
            Self::OutdatedCursor => "outdated_cursor",
            Self::SequenceReset => "sequence_reset",
            Self::SourceChanged => "source_changed",
            Self::SourceLost => "source_lost",
            Self::StartedLive => "started_live",
        }
    }
}
