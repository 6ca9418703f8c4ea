//! Interprets the seqs of a source: progress, a replay, or a gap.
//!
//! Seqs ascend, but nothing else about them is reliable. Replays after a reconnect may be inclusive
//! or exclusive. The production relay sends neither `OutdatedCursor` nor `FutureCursor`
//! (bluesky-social/indigo#1328). A host name may later belong to another server with other seqs. So
//! every jump is also checked against the times of the events.
//!
//! A new connection asks the source to begin with the last event of the previous connection. If
//! that event arrives with the same time, the sequence is the same and no event was missed.

use std::time::Duration;

use crate::model::{Gap, GapCause, Position};

/// How much later than the cursor an event with a lower seq may be to count as a replay. The clocks
/// of servers may step a little; a new sequence begins minutes later.
const REPLAY_SLACK: Duration = Duration::from_secs(10);

/// Tracks the positions of a source's events, in order.
#[derive(Clone, Debug)]
pub struct SequenceGuard {
    position: Position,
    /// How far back the source can replay. A longer interruption means missed events.
    window: Duration,
    /// Why there may be a gap before the next event, and the position before that gap.
    pending: Option<(GapCause, Position)>,
    reconnection: Reconnection,
}

/// Whether a connection continues where the previous one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reconnection {
    Passed,
    /// Nothing was received on it yet, or only one event from before.
    Open {
        before: Option<u64>,
    },
}

/// The meaning of an event's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Later than everything before.
    Advance { gap: Option<Gap> },
    /// Seen before, or older than an event seen before. The cursor stays.
    Replay,
    /// The seqs began again at a lower number. The cursor moves back to them.
    Restart { gap: Gap },
}

impl SequenceGuard {
    /// Starts after `position`; `gap` is the reason if the next event may not follow directly.
    pub fn new(position: Position, gap: Option<GapCause>, window: Duration) -> Self {
        Self {
            position,
            window,
            pending: gap.map(|cause| (cause, position)),
            reconnection: Reconnection::Passed,
        }
    }

    /// The next event arrives on a new connection.
    pub fn note_reconnect(&mut self) {
        if self.position != Position::default() {
            self.reconnection = Reconnection::Open { before: None };
        }
    }

    /// Whether `event` is the event that a new connection was asked to begin with.
    pub fn is_proof(&self, event: Position) -> bool {
        self.reconnection != Reconnection::Passed && event.seq == self.position.seq
    }

    /// The position after everything that was observed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The source says that it no longer holds the events after the cursor.
    pub fn note_outdated_cursor(&mut self) {
        self.pending
            .get_or_insert((GapCause::OutdatedCursor, self.position));
    }

    /// The gap whose end is not known yet.
    pub fn unfinished_gap(&self) -> Option<Gap> {
        let (cause, from) = self.pending?;
        Some(gap(cause, from, None))
    }

    /// Classifies the position of the next event.
    pub fn observe(&mut self, event: Position) -> Observation {
        let cause = match self.reconnection {
            Reconnection::Open { before } => self.cause_after_reconnect(event, before),
            Reconnection::Passed => self
                .is_new_sequence(event)
                .then_some(GapCause::SequenceReset),
        };
        match cause {
            Some(cause @ (GapCause::SequenceReset | GapCause::FutureCursor)) => {
                self.restart(cause, event)
            }
            _ if event.seq <= self.position.seq => {
                self.position.time = self.position.time.or(event.time);
                Observation::Replay
            }
            cause => self.advance(cause, event),
        }
    }

    fn restart(&mut self, cause: GapCause, event: Position) -> Observation {
        let gap = gap(cause, self.position, Some(event));
        self.position = event;
        self.pending = None;
        self.reconnection = Reconnection::Passed;
        Observation::Restart { gap }
    }

    fn advance(&mut self, cause: Option<GapCause>, event: Position) -> Observation {
        let before = self.position;
        self.position = Position {
            seq: event.seq,
            time: event.time.or(before.time),
        };
        let by_clock = self.is_beyond_window(before, event);
        let cause = cause.or(by_clock.then_some(GapCause::OutdatedCursor));
        let gap = match self.pending.take() {
            Some((cause, from)) => Some(gap(cause, from, Some(event))),
            None => cause.map(|cause| gap(cause, before, Some(event))),
        };
        Observation::Advance { gap }
    }

    /// Why events may be missing before the first event of a new connection, on which `earlier` was
    /// received.
    fn cause_after_reconnect(&mut self, event: Position, earlier: Option<u64>) -> Option<GapCause> {
        let before = self.position;
        let ahead = before
            .time
            .zip(event.time)
            .map(|(before, now)| now.duration_since(before));
        if event.seq < before.seq {
            // Servers may begin one event before the requested one. An earlier start proves
            // nothing, because not every event is reported to this guard.
            self.reconnection = match earlier {
                Some(earlier) if earlier != event.seq => Reconnection::Passed,
                _ => Reconnection::Open {
                    before: Some(event.seq),
                },
            };
            // A cursor that an operator set ahead of this sequence.
            let is_future = before.time.is_none() && event.seq + 1 < before.seq;
            let is_new = self.is_new_sequence(event);
            return match is_future {
                true => Some(GapCause::FutureCursor),
                false => is_new.then_some(GapCause::SequenceReset),
            };
        }
        self.reconnection = Reconnection::Passed;
        let slack = signed(REPLAY_SLACK);
        match ahead? {
            ahead if event.seq == before.seq => {
                (!ahead.is_zero()).then_some(GapCause::SequenceReset)
            }
            // The source no longer has our last event, so it may have lost later ones too.
            ahead if ahead > slack => Some(GapCause::OutdatedCursor),
            // The event has a higher seq and an earlier time, so it is of another sequence.
            ahead if ahead < -slack => Some(GapCause::SequenceReset),
            _ => None,
        }
    }

    fn is_new_sequence(&self, event: Position) -> bool {
        if event.seq > self.position.seq {
            return false;
        }
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
    fn an_interruption_longer_than_the_window_is_a_gap_without_a_notice() {
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

    /// A guard at the 1000th event, with a new connection before the next event.
    fn guard_at_reconnect() -> SequenceGuard {
        let mut guard = guard_at(at(1000, 0));
        guard.note_reconnect();
        guard
    }

    fn cause(observation: &Observation) -> Option<GapCause> {
        match observation {
            Observation::Advance { gap } => gap.as_ref().map(|gap| gap.cause),
            Observation::Restart { gap } => Some(gap.cause),
            Observation::Replay => None,
        }
    }

    #[test]
    fn a_connection_that_begins_with_the_last_event_continues_the_sequence() {
        let mut guard = guard_at_reconnect();
        // An inclusive server.
        assert_eq!(guard.observe(at(999, -1)), Observation::Replay);
        assert!(guard.is_proof(at(1000, 0)));
        assert_eq!(guard.observe(at(1000, 0)), Observation::Replay);
        // Even if nothing happened for a long time.
        let next = guard.observe(at(1001, 20 * HOUR));
        assert_eq!(next, Observation::Advance { gap: None });
    }

    #[test]
    fn a_start_before_the_requested_event_proves_nothing() {
        let mut guard = guard_at_reconnect();
        for replayed in [at(997, -9), at(997, -9), at(998, -8)] {
            assert_eq!(guard.observe(replayed), Observation::Replay);
        }
        // Not every event in between needs to be reported.
        let next = guard.observe(at(1001, HOUR));
        assert_eq!(next, Observation::Advance { gap: None });
    }

    #[test]
    fn the_last_event_with_another_time_is_another_sequence() {
        // Two relays with similar seqs that are not the same sequence.
        for seconds in [-3, 3] {
            let observed = guard_at_reconnect().observe(at(1000, seconds));
            assert_eq!(cause(&observed), Some(GapCause::SequenceReset));
            assert!(matches!(observed, Observation::Restart { .. }));
        }
    }

    #[test]
    fn a_missing_last_event_means_later_ones_may_be_missing() {
        let observed = guard_at_reconnect().observe(at(5000, 96 * HOUR));
        assert_eq!(cause(&observed), Some(GapCause::OutdatedCursor));
        let observed = guard_at_reconnect().observe(at(5000, HOUR));
        assert_eq!(cause(&observed), Some(GapCause::OutdatedCursor));
        // A server erases the events of a deleted account.
        let observed = guard_at_reconnect().observe(at(1001, 1));
        assert_eq!(cause(&observed), None);
    }

    #[test]
    fn higher_seqs_at_an_earlier_time_are_a_new_sequence() {
        let mut guard = guard_at_reconnect();
        let observed = guard.observe(at(26_000_000, -70 * HOUR));
        assert_eq!(cause(&observed), Some(GapCause::SequenceReset));
        assert_eq!(guard.position(), at(26_000_000, -70 * HOUR));
    }

    #[test]
    fn a_cursor_that_was_set_too_high_is_detected_without_a_notice() {
        let by_hand = Position {
            seq: 1000,
            time: None,
        };
        let mut guard = guard_at(by_hand);
        guard.note_reconnect();
        let observed = guard.observe(at(7, 0));
        assert_eq!(cause(&observed), Some(GapCause::FutureCursor));
        assert_eq!(guard.position(), at(7, 0));

        let mut guard = guard_at(by_hand);
        guard.note_reconnect();
        assert_eq!(guard.observe(at(1000, 0)), Observation::Replay);
        assert_eq!(guard.position(), at(1000, 0));
    }

    #[test]
    fn a_source_without_a_cursor_has_no_gap() {
        let mut guard = guard_at(Position::default());
        guard.note_reconnect();
        assert_eq!(guard.observe(at(7, 0)), Observation::Advance { gap: None });
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
