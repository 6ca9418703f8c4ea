//! What a stream was when it took changes, so that it is noticed where it is another one, or went back.

use std::fmt;
use std::str::FromStr;

use async_nats::jetstream::stream::Info;
use bytestring::ByteString;

/// The stream, and the last message that it acknowledged. It is kept beside the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// When the stream was created, in nanoseconds since 1970. Another one has another time.
    created: i128,
    /// How often an operator has moved the position back. It is part of the messages' ids: the stream takes
    /// no second message with an id that it knows.
    rewinds: u32,
    acked: Option<Acked>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Acked {
    seq: u64,
    /// The message's id.
    id: ByteString,
}

/// What a stream is to one that took changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has what it acknowledged, or consumers have taken it.
    Same,
    /// It is the same stream in an earlier state, as after a loss of power or a restore.
    WentBack,
    /// It was created anew.
    Another,
}

impl Mark {
    /// Of a stream that has acknowledged nothing yet.
    pub(super) fn of(info: &Info) -> Self {
        Self {
            created: info.created.unix_timestamp_nanos(),
            rewinds: 0,
            acked: None,
        }
    }

    /// The same stream as it is now, of which it is not known what it acknowledged.
    pub(super) fn anew(&self, info: &Info) -> Self {
        Self {
            rewinds: self.rewinds,
            ..Self::of(info)
        }
    }

    pub(super) fn rewinds(&self) -> u32 {
        self.rewinds
    }

    pub(super) fn note_rewind(&mut self) {
        self.rewinds += 1;
    }

    /// The number of the last message that was acknowledged.
    pub(super) fn seq(&self) -> Option<u64> {
        self.acked.as_ref().map(|acked| acked.seq)
    }

    /// Notes that message `id` has the number `seq`. A repetition has the number of the first one.
    pub(super) fn note(&mut self, seq: u64, id: ByteString) {
        if self.seq().is_none_or(|last| last < seq) {
            self.acked = Some(Acked { seq, id });
        }
    }

    /// Compares the stream as it is found. `id_there` is the id of the message with the number
    /// [`Self::seq`], if it is still there.
    pub(super) fn compare(&self, found: &Info, id_there: Option<&str>) -> Standing {
        let (created, last) = (
            found.created.unix_timestamp_nanos(),
            found.state.last_sequence,
        );
        self.standing(created, last, id_there)
    }

    fn standing(&self, created: i128, last_seq: u64, id_there: Option<&str>) -> Standing {
        if self.created != created {
            return Standing::Another;
        }
        let Some(acked) = &self.acked else {
            return Standing::Same;
        };
        let is_other = id_there.is_some_and(|id| acked.id != *id);
        match last_seq < acked.seq || is_other {
            true => Standing::WentBack,
            false => Standing::Same,
        }
    }

    pub(super) fn is_of(&self, info: &Info) -> bool {
        self.created == info.created.unix_timestamp_nanos()
    }
}

/// The text is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidMark;

impl FromStr for Mark {
    type Err = InvalidMark;

    fn from_str(text: &str) -> Result<Self, InvalidMark> {
        let mut words = text.split(' ');
        let first = words.next().ok_or(InvalidMark)?;
        let (created, rewinds) = first.split_once('.').unwrap_or((first, "0"));
        let created = created.parse().map_err(|_| InvalidMark)?;
        let rewinds = rewinds.parse().map_err(|_| InvalidMark)?;
        let acked = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some(seq), Some(id), None) if !id.is_empty() => Some(Acked {
                seq: seq.parse().map_err(|_| InvalidMark)?,
                id: id.into(),
            }),
            _ => return Err(InvalidMark),
        };
        Ok(Self {
            created,
            rewinds,
            acked,
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.created)?;
        if self.rewinds > 0 {
            write!(f, ".{}", self.rewinds)?;
        }
        match &self.acked {
            Some(acked) => write!(f, " {} {}", acked.seq, acked.id),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Mark {
        text.parse().unwrap()
    }

    #[test]
    fn a_mark_is_read_as_it_is_written_and_nothing_else_is_one() {
        for text in ["17", "17 5 f:e:9", "17.2 5 f:e:9:2", "17.1"] {
            assert_eq!(mark(text).to_string(), text);
        }
        for text in [
            "",
            "x",
            "17 5",
            "17 x f:e:9",
            "17 5 f:e:9 9",
            "17  ",
            "17.",
            "17.x",
        ] {
            assert_eq!(text.parse::<Mark>(), Err(InvalidMark), "{text:?}");
        }
    }

    #[test]
    fn a_stream_that_was_created_anew_or_went_back_is_noticed() {
        let acked = mark("17 5 f:e:9");
        assert_eq!(acked.standing(17, 5, Some("f:e:9")), Standing::Same);
        assert_eq!(acked.standing(17, 8, None), Standing::Same);
        assert_eq!(acked.standing(17, 4, None), Standing::WentBack);
        assert_eq!(acked.standing(17, 8, Some("g:e:1")), Standing::WentBack);
        assert_eq!(acked.standing(18, 8, None), Standing::Another);
        assert_eq!(mark("17").standing(17, 0, None), Standing::Same);
    }

    #[test]
    fn a_repetition_moves_nothing_back() {
        let mut mark = mark("17 5 f:e:9");
        mark.note(3, "f:e:7".into());
        assert_eq!(mark.seq(), Some(5));
        mark.note(6, "f:e:10".into());
        assert_eq!(mark.to_string(), "17 6 f:e:10");
    }
}
