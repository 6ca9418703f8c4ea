//! What a batch is made of: frames, and runs of frames that were passed by unread.

use bytes::Bytes;

use crate::atproto::datetime::parse_datetime;
use crate::model::Position;

/// A part of a batch, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Portion {
    /// Somebody may want it, or wants to know what is wrong with it.
    Frame(Bytes),
    Passed(Passage),
    /// What follows came by another connection than what was before, and is to begin with the last of that.
    Joint,
}

/// Frames that nobody wants, one behind the other, with rising seqs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    pub events: u64,
    pub bytes: u64,
    first: End,
    last: End,
}

/// A [`Place`] that owns its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct End {
    seq: u64,
    time: Option<String>,
}

/// A seq, and the event's time as the server wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub seq: u64,
    pub time: Option<&'a str>,
}

impl Place<'_> {
    /// Reads the time, which few frames are asked for; `None` where it makes no sense.
    pub fn position(self) -> Position {
        Position {
            seq: self.seq,
            time: self.time.and_then(|text| parse_datetime(text).ok()),
        }
    }
}

// === impl Portion ===

impl Portion {
    /// The bytes of memory that it takes.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Frame(frame) => frame.len(),
                Self::Passed(_) | Self::Joint => 0,
            }
    }

    /// How many frames of the stream it stands for.
    pub fn events(&self) -> u64 {
        match self {
            Self::Frame(_) => 1,
            Self::Passed(passage) => passage.events,
            Self::Joint => 0,
        }
    }
}

// === impl Passage ===

impl Passage {
    pub fn of(place: Place<'_>, bytes: usize) -> Self {
        let mut end = End::default();
        end.set(place);
        Self {
            events: 1,
            bytes: bytes as u64,
            first: end.clone(),
            last: end,
        }
    }

    pub fn add(&mut self, place: Place<'_>, bytes: usize) {
        self.events += 1;
        self.bytes += bytes as u64;
        self.last.set(place);
    }

    pub fn first(&self) -> Place<'_> {
        self.first.place()
    }

    pub fn last(&self) -> Place<'_> {
        self.last.place()
    }
}

impl End {
    /// Keeps the text's allocation, since this is done for every frame.
    fn set(&mut self, place: Place<'_>) {
        self.seq = place.seq;
        match (&mut self.time, place.time) {
            (Some(own), Some(time)) => {
                own.clear();
                own.push_str(time);
            }
            (own, time) => *own = time.map(str::to_owned),
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            seq: self.seq,
            time: self.time.as_deref(),
        }
    }
}
