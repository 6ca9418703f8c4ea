//! The parts of a batch: frames, and runs of frames that were skipped unread.

use bytes::Bytes;

use crate::atproto::datetime::parse_datetime;
use crate::model::Position;

/// A part of a batch, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A frame that may be wanted, or that could not be read.
    Frame(Bytes),
    Skipped(SkippedRun),
    /// The segments after this one arrived on a new connection.
    ReconnectMarker(Requested),
}

/// What the source was asked to begin a new connection with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    pub seq: u64,
    /// The event with this seq is the first one. Otherwise the connection begins after it.
    pub is_inclusive: bool,
}

/// A run of unwanted frames with ascending seqs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedRun {
    pub events: u64,
    pub bytes: u64,
    first: OwnedPosition,
    last: OwnedPosition,
}

/// A [`RawPosition`] that owns its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OwnedPosition {
    seq: u64,
    time: Option<String>,
}

/// A seq, and the time of the event as the server wrote it.
#[derive(Clone, Copy, Debug)]
pub struct RawPosition<'a> {
    pub seq: u64,
    pub time: Option<&'a str>,
}

impl RawPosition<'_> {
    /// Parses the time. The time of the result is `None` if the text is not a datetime. Called for
    /// few frames only.
    pub fn position(self) -> Position {
        Position {
            seq: self.seq,
            time: self.time.and_then(|text| parse_datetime(text).ok()),
        }
    }
}

// === impl Segment ===

impl Segment {
    /// The memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Frame(frame) => frame.len(),
                Self::Skipped(_) | Self::ReconnectMarker(_) => 0,
            }
    }

    /// The number of stream frames that it covers.
    pub fn events(&self) -> u64 {
        match self {
            Self::Frame(_) => 1,
            Self::Skipped(run) => run.events,
            Self::ReconnectMarker(_) => 0,
        }
    }
}

// === impl SkippedRun ===

impl SkippedRun {
    pub fn of(position: RawPosition<'_>, bytes: usize) -> Self {
        let mut end = OwnedPosition::default();
        end.set(position);
        Self {
            events: 1,
            bytes: bytes as u64,
            first: end.clone(),
            last: end,
        }
    }

    pub fn add(&mut self, position: RawPosition<'_>, bytes: usize) {
        self.events += 1;
        self.bytes += bytes as u64;
        self.last.set(position);
    }

    pub fn first(&self) -> RawPosition<'_> {
        self.first.raw_position()
    }

    pub fn last(&self) -> RawPosition<'_> {
        self.last.raw_position()
    }
}

impl OwnedPosition {
    /// Reuses the allocation of the text, because this is called for every frame.
    fn set(&mut self, position: RawPosition<'_>) {
        self.seq = position.seq;
        match (&mut self.time, position.time) {
            (Some(own), Some(time)) => {
                own.clear();
                own.push_str(time);
            }
            (own, time) => *own = time.map(str::to_owned),
        }
    }

    fn raw_position(&self) -> RawPosition<'_> {
        RawPosition {
            seq: self.seq,
            time: self.time.as_deref(),
        }
    }
}
