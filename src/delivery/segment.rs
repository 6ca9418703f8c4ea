//! What a batch is made of: frames, and runs of frames that were passed by unread.

use bytes::Bytes;

use crate::atproto::datetime::parse_datetime;
use crate::model::Position;

/// A part of a batch, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Somebody may want it, or wants to know what is wrong with it.
    Frame(Bytes),
    Skipped(SkippedRun),
    /// What follows came by another connection than what was before, and is to begin with the last of that.
    ReconnectMarker,
}

/// Frames that nobody wants, one behind the other, with rising seqs.
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

/// A seq, and the event's time as the server wrote it.
#[derive(Clone, Copy, Debug)]
pub struct RawPosition<'a> {
    pub seq: u64,
    pub time: Option<&'a str>,
}

impl RawPosition<'_> {
    /// Reads the time, which few frames are asked for; `None` where it makes no sense.
    pub fn position(self) -> Position {
        Position {
            seq: self.seq,
            time: self.time.and_then(|text| parse_datetime(text).ok()),
        }
    }
}

// === impl Segment ===

impl Segment {
    /// The bytes of memory that it takes.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Frame(frame) => frame.len(),
                Self::Skipped(_) | Self::ReconnectMarker => 0,
            }
    }

    /// How many frames of the stream it stands for.
    pub fn events(&self) -> u64 {
        match self {
            Self::Frame(_) => 1,
            Self::Skipped(run) => run.events,
            Self::ReconnectMarker => 0,
        }
    }
}

// === impl SkippedRun ===

impl SkippedRun {
    pub fn of(place: RawPosition<'_>, bytes: usize) -> Self {
        let mut end = OwnedPosition::default();
        end.set(place);
        Self {
            events: 1,
            bytes: bytes as u64,
            first: end.clone(),
            last: end,
        }
    }

    pub fn add(&mut self, place: RawPosition<'_>, bytes: usize) {
        self.events += 1;
        self.bytes += bytes as u64;
        self.last.set(place);
    }

    pub fn first(&self) -> RawPosition<'_> {
        self.first.raw_position()
    }

    pub fn last(&self) -> RawPosition<'_> {
        self.last.raw_position()
    }
}

impl OwnedPosition {
    /// Keeps the text's allocation, since this is done for every frame.
    fn set(&mut self, place: RawPosition<'_>) {
        self.seq = place.seq;
        match (&mut self.time, place.time) {
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
