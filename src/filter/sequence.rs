//! What the seqs of a source say: progress, a replay, or a gap.
//!
//! Seqs rise, but nothing more can be relied on. Replays after a reconnect may be inclusive or
//! exclusive; the relay in production sends neither `OutdatedCursor` nor `FutureCursor`
//! (bluesky-social/indigo#1328); and a host name may come to stand for another server with other
//! seqs. So every jump is judged by the events' time as well.

use std::time::Duration;

use crate::queue::effect::{Gap, GapCause};
use crate::source::Position;

/// How much later than the cursor an event with a lower seq may be and still count as a replay.
/// Servers stamp events with clocks that may step a little; a new sequence begins minutes later.
const REPLAY_SLACK: Duration = Duration::from_secs(10);

/// Watches the positions of a source's events, in order.
#[derive(Clone, Debug)]
pub struct SequenceGuard {
    position: Position,
    /// How far back the source can replay; silence longer than that means missed events.
    window: Duration,
    /// Why the next event may follow on a gap, and what lies before that gap.
    pending: Option<(GapCause, Position)>,
}

/// What an event's position means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Later than everything before.
    Advance { gap: Option<Gap> },
    /// Seen before, or older than what was seen before. The cursor stays.
    Replay,
    /// Seqs began anew: the cursor goes back to them.
    Restart { gap: Gap },
}

impl SequenceGuard {
    /// Starts behind `position`; `gap` says why what comes next may not follow on it.
    pub fn new(position: Position, gap: Option<GapCause>, window: Duration) -> Self {
        Self {
            position,
            window,
            pending: gap.map(|cause| (cause, position)),
        }
    }

    /// The place behind everything that was observed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The source says that it no longer holds what follows the cursor.
    pub fn note_outdated_cursor(&mut self) {
        self.pending
            .get_or_insert((GapCause::OutdatedCursor, self.position));
    }

    /// The gap whose end has not been seen yet.
    pub fn unfinished_gap(&self) -> Option<Gap> {
        let (cause, from) = self.pending?;
        Some(gap(cause, from, None))
    }

    /// Judges the next event's position.
    pub fn observe(&mut self, event: Position) -> Observation {
        let before = self.position;
        if event.seq <= before.seq {
            if !self.is_new_sequence(event) {
                return Observation::Replay;
            }
            self.position = event;
            self.pending = None;
            return Observation::Restart {
                gap: gap(GapCause::SequenceReset, before, Some(event)),
            };
        }
        self.position = Position {
            seq: event.seq,
            time: event.time.or(before.time),
        };
        let gap = match self.pending.take() {
            Some((cause, from)) => Some(gap(cause, from, Some(event))),
            None if self.is_beyond_window(before, event) => {
                Some(gap(GapCause::OutdatedCursor, before, Some(event)))
            }
            None => None,
        };
        Observation::Advance { gap }
    }

    fn is_new_sequence(&self, event: Position) -> bool {
        match (self.position.time, event.time) {
            (Some(before), Some(now)) => now.duration_since(before) > signed(REPLAY_SLACK),
            _ => false,
        }
    }

    fn is_beyond_window(&self, before: Position, event: Position) -> bool {
        match (before.time, event.time) {
            (Some(before), Some(now)) => now.duration_since(before) > signed(self.window),
            _ => false,
        }
    }
}

fn gap(cause: GapCause, from: Position, to: Option<Position>) -> Gap {
    Gap {
        cause,
        from_seq: from.seq,
        from_time: from.time,
        to_seq: to.map(|to| to.seq),
        to_time: to.and_then(|to| to.time),
    }
}

fn signed(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const HOUR: i64 = 3600;

    fn at(seq: u64, second: i64) -> Position {
        Position {
            seq,
            time: Some(Timestamp::from_second(1_800_000_000 + second).unwrap()),
        }
    }

    fn guard_at(position: Position) -> SequenceGuard {
        SequenceGuard::new(position, None, Duration::from_secs(72 * 3600))
    }

    #[test]
    fn gaps_in_the_numbering_are_normal() {
        let mut guard = guard_at(at(10, 0));
        assert_eq!(
            guard.observe(at(500, 1)),
            Observation::Advance { gap: None }
        );
        assert_eq!(guard.position(), at(500, 1));
    }

    #[test]
    fn an_inclusive_replay_is_no_gap_and_does_not_move_the_cursor_back() {
        let mut guard = guard_at(at(10, 0));
        assert_eq!(guard.observe(at(10, 0)), Observation::Replay);
        assert_eq!(guard.observe(at(3, -60)), Observation::Replay);
        assert_eq!(guard.position(), at(10, 0));
    }

    #[test]
    fn lower_seqs_at_a_later_time_are_a_new_sequence() {
        let mut guard = guard_at(at(1_000_000, 0));
        let Observation::Restart { gap } = guard.observe(at(1, 60)) else {
            panic!("not seen as a restart");
        };
        assert_eq!(gap.cause, GapCause::SequenceReset);
        assert_eq!((gap.from_seq, gap.to_seq), (1_000_000, Some(1)));
        assert_eq!(guard.position(), at(1, 60));
        assert_eq!(guard.observe(at(2, 61)), Observation::Advance { gap: None });
    }

    #[test]
    fn a_silence_longer_than_the_sources_window_is_a_gap_even_if_nobody_says_so() {
        let mut guard = guard_at(at(10, 0));
        let Observation::Advance { gap: Some(gap) } = guard.observe(at(11, 73 * HOUR)) else {
            panic!("no gap was seen");
        };
        assert_eq!(gap.cause, GapCause::OutdatedCursor);
    }

    #[test]
    fn an_outdated_cursor_opens_a_gap_that_ends_at_the_next_event() {
        let mut guard = guard_at(at(10, 0));
        guard.note_outdated_cursor();
        let unfinished = guard.unfinished_gap().unwrap();
        assert_eq!((unfinished.from_seq, unfinished.to_seq), (10, None));
        let Observation::Advance { gap: Some(gap) } = guard.observe(at(90, 5)) else {
            panic!("no gap was seen");
        };
        assert_eq!((gap.from_seq, gap.to_seq), (10, Some(90)));
        assert_eq!(guard.unfinished_gap(), None);
    }

    #[test]
    fn a_start_at_the_live_end_is_a_gap_up_to_the_first_event() {
        let mut guard = SequenceGuard::new(
            Position::default(),
            Some(GapCause::StartedLive),
            Duration::from_secs(HOUR as u64),
        );
        let Observation::Advance { gap: Some(gap) } = guard.observe(at(77, 0)) else {
            panic!("no gap was seen");
        };
        assert_eq!((gap.cause, gap.to_seq), (GapCause::StartedLive, Some(77)));
    }
}
