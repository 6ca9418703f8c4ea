//! Interprets the seqs of a source: progress, a replay, or a gap.
//!
//! Seqs ascend, but nothing else about them is reliable. Replays after a reconnect may be inclusive
//! or exclusive. The production relay sends neither `OutdatedCursor` nor `FutureCursor`
//! (bluesky-social/indigo#1328). A host name may later belong to another server with other seqs.
//!
//! A new connection asks the source to begin with the last event of the previous connection. If
//! that event arrives with the same time, the sequence is the same and no event was missed. A
//! connection that begins elsewhere is evidence against the server itself, so it is a gap at once.
//! The gap is void if the event follows after all: a replay has reached it, or only a leap came
//! before it.
//!
//! Within a connection, no single event decides. The time of an event is the word of one account's
//! host, and one seq may be wrong. So a leap ahead and a fall back are believed only when several
//! events say the same (`witnesses`).

mod known;
mod leap;
mod witnesses;

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use self::known::KnownEvents;
use self::leap::Step;
use self::witnesses::Witnesses;
use crate::delivery::segment::Requested;
use crate::model::{Gap, GapCause, Position};

pub(crate) use self::leap::LONG_STEP;
pub use self::leap::{Leaps, ResumePoint};
pub use self::witnesses::{Account, Seen};

/// How much later than the sequence an event with a lower seq may be to count as a replay. The
/// clocks of servers may step a little; a new sequence begins minutes later.
const REPLAY_SLACK: Duration = Duration::from_secs(10);

/// How long, and for how many observed events, a new connection may stay below the event that it
/// was asked to begin with. A server that ignores cursors replays its whole log.
const JOIN_TIME: Duration = Duration::from_secs(30);
const JOIN_EVENTS: u32 = 1000;

/// Tracks the positions of a source's events, in order.
#[derive(Clone, Debug)]
pub struct SequenceGuard {
    /// The end of the line of proven seqs. It is the cursor.
    position: Position,
    /// How far back the source can replay. A longer interruption means missed events.
    window: Duration,
    /// Why there may be a gap before the next event, and the position before that gap.
    pending: Option<(GapCause, Position)>,
    reconnection: Reconnection,
    known: KnownEvents,
    leaps: Leaps,
    /// Events below the position that no replay explains.
    fall: Option<Witnesses>,
    /// The end of the line before the last confirmed leap.
    left: Option<Position>,
    /// The longest step between two events of which none lies between them.
    longest_step: u64,
    heard_at: Option<Instant>,
}

/// Whether a connection continues where the previous one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reconnection {
    Passed,
    /// The event that the connection was asked to begin with has not come.
    Open {
        requested: Requested,
        below: Option<Below>,
        /// It began with the event before that one, as some servers do, so a lower event says nothing
        /// about the connection.
        has_begun: bool,
        /// A leap came first and opened the gap. If the connection then begins as it was asked to,
        /// the leap was wrong, and there is no gap.
        has_leapt: bool,
    },
}

/// The events of a connection that began below the one it was asked to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Below {
    first: Position,
    since: Instant,
    events: u32,
}

/// The meaning of an event's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Later than everything before.
    Advance { gap: Option<Gap> },
    /// Far ahead of everything before, which is not proven yet. The cursor stays.
    Leap,
    /// Seen before, or older than an event seen before. The cursor stays.
    Replay,
    /// The connection began with other events than the one that it was asked to begin with, and has
    /// reached it. The open gap is void: it ends where it began.
    Joined { void: Gap },
    /// The seqs began again at a lower number, or are those of another sequence. The cursor moves
    /// to them.
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
            known: KnownEvents::at(position),
            leaps: Leaps::default(),
            fall: None,
            left: None,
            longest_step: 0,
            heard_at: None,
        }
    }

    /// Continues with what an earlier guard knew of leaps at this position.
    pub fn with_leaps(self, leaps: Leaps) -> Self {
        Self { leaps, ..self }
    }

    /// What is known of leaps at this position.
    pub fn leaps(&self) -> Leaps {
        self.leaps
    }

    /// The next event arrives on a new connection.
    pub fn note_reconnect(&mut self, requested: Requested) {
        if self.position == Position::default() {
            return;
        }
        let (below, has_leapt) = match self.reconnection {
            Reconnection::Open {
                below, has_leapt, ..
            } => (below, has_leapt),
            Reconnection::Passed => (None, false),
        };
        self.reconnection = Reconnection::Open {
            requested,
            below,
            has_begun: false,
            has_leapt,
        };
    }

    /// A frame with this seq could not be read. If it is the event that the connection was asked to
    /// begin with, it did so.
    pub fn note_unreadable(&mut self, seq: u64) {
        if let Reconnection::Open {
            requested,
            below: None,
            ..
        } = self.reconnection
            && seq == requested.seq
        {
            self.reconnection = Reconnection::Passed;
        }
    }

    /// Whether `event` is the event that a new connection was asked to begin with.
    pub fn is_proof(&self, event: Position) -> bool {
        self.reconnection != Reconnection::Passed && event.seq == self.position.seq
    }

    /// The position after everything that was observed and is proven.
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

    /// Classifies the next event. Times after `latest_credible` prove nothing.
    pub fn observe(&mut self, seen: Seen, latest_credible: Timestamp) -> Observation {
        let heard_before = self.heard_at.replace(seen.at);
        let silence = heard_before.map(|before| seen.at.saturating_duration_since(before));
        let is_beyond_window = silence.is_some_and(|silence| silence > self.window);
        let Reconnection::Open {
            requested,
            below,
            has_begun,
            has_leapt,
        } = self.reconnection
        else {
            return self.observe_in_line(seen, latest_credible, is_beyond_window);
        };
        let seq = seen.position.seq;
        if seq == self.position.seq {
            return self.meet_last_event(seen.position);
        }
        let is_below = match below {
            None => {
                seq < requested
                    .seq
                    .saturating_sub(u64::from(requested.is_inclusive))
            }
            Some(_) => seq < self.position.seq,
        };
        if is_below && seq < self.position.seq {
            return match has_begun {
                true => self.observe_in_line(seen, latest_credible, false),
                false => self.observe_below(below, seen, latest_credible),
            };
        }
        if below.is_none() && seq < requested.seq {
            // Servers may begin one event before the requested one.
            self.note_begun(seen.position);
            return Observation::Replay;
        }
        self.reconnection = Reconnection::Passed;
        if below.is_some() && !self.leaps.is_leap(self.position.seq, seq) {
            // The replay has passed the last event. Not every event in between is observed. A leap
            // would not show that.
            let void = self.void_gap(has_leapt);
            let observed = self.observe_in_line(seen, latest_credible, false);
            return void.map_or(observed, |void| Observation::Joined { void });
        }
        if seq == requested.seq || seq < self.position.seq {
            // It was asked to begin elsewhere than at the position, and does so.
            return match self.observe_in_line(seen, latest_credible, false) {
                Observation::Replay if has_leapt => self.joined(has_leapt),
                observed => observed,
            };
        }
        let has_pending = self.pending.is_some();
        let observed = self.begin_beyond(requested, seen, latest_credible, is_beyond_window);
        if observed == Observation::Leap {
            // A single leap does not show where the connection begins: the next event may.
            self.reconnection = Reconnection::Open {
                requested,
                below,
                has_begun,
                has_leapt: has_leapt || !has_pending,
            };
        }
        observed
    }

    /// The connection begins with the event before the requested one, unless that is of another
    /// sequence, which would be later than the last event.
    fn note_begun(&mut self, event: Position) {
        let is_earlier =
            |(last, now): (Timestamp, Timestamp)| now.duration_since(last) <= signed(REPLAY_SLACK);
        let times = self.position.time.zip(event.time);
        let is_of_sequence = self.known.has(event) || times.is_some_and(is_earlier);
        if let Reconnection::Open { has_begun, .. } = &mut self.reconnection {
            *has_begun |= is_of_sequence;
        }
    }

    /// The connection begins with the event that it was asked to begin with, if the time is the
    /// same: otherwise it is an event of another sequence.
    fn meet_last_event(&mut self, event: Position) -> Observation {
        let is_same = match (self.position.time, event.time) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        };
        if !is_same {
            return self.restart(GapCause::SequenceReset, event, event);
        }
        self.position.time = self.position.time.or(event.time);
        self.fall = None;
        match std::mem::replace(&mut self.reconnection, Reconnection::Passed) {
            Reconnection::Open {
                below, has_leapt, ..
            } if below.is_some() || has_leapt => self.joined(has_leapt),
            _ => Observation::Replay,
        }
    }

    /// A new connection begins below the event that it was asked to begin with. That is a replay if
    /// it reaches the event, and another sequence if it does not.
    fn observe_below(
        &mut self,
        below: Option<Below>,
        seen: Seen,
        latest_credible: Timestamp,
    ) -> Observation {
        let event = seen.position;
        if self.known.has(event) {
            return Observation::Replay;
        }
        if self.known.time(latest_credible).is_none() {
            // A cursor that was set ahead of this sequence by an operator, or by an event with a
            // time of the future.
            return self.restart(GapCause::FutureCursor, event, event);
        }
        // The server does not do what it was asked, so its first event is believed.
        if below.is_none() && self.is_new_below(event, latest_credible) {
            return self.restart(GapCause::SequenceReset, event, event);
        }
        let mut below = below.unwrap_or(Below {
            first: event,
            since: seen.at,
            events: 0,
        });
        below.events += 1;
        // Recorded at once, because the process may end before this is decided.
        self.pending
            .get_or_insert((GapCause::SequenceReset, self.position));
        if let Reconnection::Open { below: kept, .. } = &mut self.reconnection {
            *kept = Some(below);
        }
        let is_late = below.events >= JOIN_EVENTS
            || seen.at.saturating_duration_since(below.since) >= JOIN_TIME;
        if is_late || self.is_proven_fall(seen, latest_credible) {
            return self.restart(GapCause::SequenceReset, below.first, event);
        }
        Observation::Replay
    }

    /// A new connection begins beyond the event that it was asked to begin with, which the source
    /// no longer has. So it may have lost later ones too.
    fn begin_beyond(
        &mut self,
        requested: Requested,
        seen: Seen,
        latest_credible: Timestamp,
        is_beyond_window: bool,
    ) -> Observation {
        let event = seen.position;
        let is_leap = self.leaps.is_leap(self.position.seq, event.seq);
        let slack = signed(REPLAY_SLACK);
        let ahead = self
            .position
            .time
            .zip(event.time)
            .map(|(before, now)| now.duration_since(before));
        let cause = match ahead {
            _ if !requested.is_inclusive => is_leap.then_some(GapCause::SequenceReset),
            Some(ahead) if ahead > slack => Some(GapCause::OutdatedCursor),
            // The event has a higher seq and an earlier time, so it is of another sequence.
            Some(ahead) if ahead < -slack && !is_leap => {
                return self.restart(GapCause::SequenceReset, event, event);
            }
            Some(_) => is_leap.then_some(GapCause::SequenceReset),
            None => is_leap.then_some(GapCause::OutdatedCursor),
        };
        if let Some(cause) = cause {
            self.pending.get_or_insert((cause, self.position));
        }
        self.observe_in_line(seen, latest_credible, is_beyond_window)
    }

    fn observe_in_line(
        &mut self,
        seen: Seen,
        latest_credible: Timestamp,
        is_beyond_window: bool,
    ) -> Observation {
        let event = seen.position;
        if event.seq == self.position.seq {
            self.position.time = self.position.time.or(event.time);
            return Observation::Replay;
        }
        if event.seq < self.position.seq {
            return match self.is_proven_fall(seen, latest_credible) {
                true => {
                    let first = self.fall.map_or(event, |fall| fall.first());
                    self.restart(GapCause::SequenceReset, first, event)
                }
                false => Observation::Replay,
            };
        }
        self.fall = None;
        if is_beyond_window || self.is_interrupted(seen, latest_credible) {
            self.note_outdated_cursor();
        }
        match self.leaps.judge(self.position.seq, seen) {
            Step::InLine => self.advance(seen, event),
            Step::Held => Observation::Leap,
            Step::Confirmed(first) => {
                self.left = Some(self.position);
                self.advance(seen, first)
            }
        }
    }

    /// Whether the source itself was interrupted: many numbers are left out, and more time than the
    /// window has passed. An account's clock alone leaves no numbers out.
    fn is_interrupted(&self, seen: Seen, latest_credible: Timestamp) -> bool {
        let Position { seq, time } = seen.position;
        let step = seq.saturating_sub(self.position.seq);
        let is_later = match (self.known.time(latest_credible), time) {
            (Some(before), Some(now)) => {
                now <= latest_credible && now.duration_since(before) > signed(self.window)
            }
            _ => false,
        };
        seen.is_next && step > LONG_STEP.max(self.longest_step.saturating_mul(2)) && is_later
    }

    /// Takes an event with a lower seq as a witness that the seqs began again, unless it is a
    /// replay. Returns whether there are enough.
    fn is_proven_fall(&mut self, seen: Seen, latest_credible: Timestamp) -> bool {
        if !self.is_new_below(seen.position, latest_credible) {
            return false;
        }
        match &mut self.fall {
            Some(fall) => fall.add(seen),
            none => *none = Some(Witnesses::of(seen)),
        }
        self.fall.is_some_and(|fall| fall.are_enough())
    }

    /// Whether an event with a lower seq is new: it is later than the sequence, or it continues the
    /// line before a leap.
    fn is_new_below(&self, event: Position, latest_credible: Timestamp) -> bool {
        if self.known.has(event) {
            return false;
        }
        let continues_left = self
            .left
            .is_some_and(|left| event.seq > left.seq && !self.leaps.is_leap(left.seq, event.seq));
        let sequence_time = self.known.time(latest_credible);
        let is_later = match (sequence_time, event.time) {
            (Some(before), Some(now)) => {
                now <= latest_credible && now.duration_since(before) > signed(REPLAY_SLACK)
            }
            _ => false,
        };
        continues_left || is_later
    }

    /// The new sequence was first seen at `first`, and `event` is its newest.
    fn restart(&mut self, cause: GapCause, first: Position, event: Position) -> Observation {
        let from = self.pending.take().map_or(self.position, |(_, from)| from);
        *self = Self {
            heard_at: self.heard_at,
            ..Self::new(event, None, self.window)
        };
        Observation::Restart {
            gap: gap(cause, from, Some(first)),
        }
    }

    /// Moves to an event. `first` is the first one after the position before.
    fn advance(&mut self, seen: Seen, first: Position) -> Observation {
        let event = seen.position;
        if seen.is_next && first == event && self.position.seq > 0 {
            let step = event.seq.saturating_sub(self.position.seq);
            self.longest_step = self.longest_step.max(step);
        }
        self.position = Position {
            seq: event.seq,
            time: event.time.or(self.position.time),
        };
        self.known.add(seen);
        let gap = self
            .pending
            .take()
            .map(|(cause, from)| gap(cause, from, Some(first)));
        Observation::Advance { gap }
    }

    /// The connection has reached what it was asked to begin with.
    fn joined(&mut self, has_leapt: bool) -> Observation {
        self.void_gap(has_leapt)
            .map_or(Observation::Replay, |void| Observation::Joined { void })
    }

    /// Drops the gap of a connection that began too early, or with a wrong leap. Returns it as a gap
    /// that ends where it began. A gap that the source spoke of stays.
    fn void_gap(&mut self, has_leapt: bool) -> Option<Gap> {
        let (cause, from) = self
            .pending
            .take_if(|(cause, _)| has_leapt || *cause == GapCause::SequenceReset)?;
        Some(gap(cause, from, Some(from)))
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

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
