//! Leaps: seqs far ahead of all earlier ones.
//!
//! A source may number an event wrongly (bluesky-social/indigo#1478). If such a seq became the
//! cursor, a restart would ask for what follows it, and everything that came meanwhile would be
//! lost. So a leap waits until further events follow behind it. The events themselves are applied.

use tokio::time::Instant;

use super::witnesses::{Seen, Witnesses};
use crate::model::Position;

/// Both ends of a longer step are observed.
pub(crate) const LONG_STEP: u64 = 16;
/// A step of more than this is a leap, until the source's own steps were larger.
const SHORTEST_LEAP: u64 = 10_000;
/// How much longer than the longest step of a confirmed leap a step may be and be no leap.
const MARGIN: u64 = 16;
/// A step of more than this is always a leap.
const LONGEST_STEP: u64 = 1 << 40;

/// Tells steps from leaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaps {
    /// The longest step that is no leap.
    longest_step: u64,
    held: Option<Witnesses>,
    /// The longest step between the events behind the held leap.
    step_behind: u64,
}

/// What an event with a higher seq is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    InLine,
    /// A leap that too few events have confirmed yet.
    Held,
    /// A leap that enough events have followed. It began at this position.
    Confirmed(Position),
}

impl Default for Leaps {
    fn default() -> Self {
        Self {
            longest_step: SHORTEST_LEAP,
            held: None,
            step_behind: 0,
        }
    }
}

impl Leaps {
    pub(super) fn is_leap(&self, end: u64, seq: u64) -> bool {
        seq.saturating_sub(end) > self.longest_step
    }

    /// Judges an event with a seq higher than `end`, the end of the line so far.
    pub(super) fn judge(&mut self, end: u64, seen: Seen) -> Step {
        let seq = seen.position.seq;
        if !self.is_leap(end, seq) {
            // The line goes on, so the leap was none.
            self.held = None;
            return Step::InLine;
        }
        let held = match &mut self.held {
            Some(held) => {
                let step = seq.saturating_sub(held.last_seq());
                self.step_behind = self.step_behind.max(step);
                held.add(seen);
                held
            }
            none => {
                self.step_behind = 0;
                none.insert(Witnesses::of(seen))
            }
        };
        if !held.are_enough() {
            return Step::Held;
        }
        let first = held.first();
        self.held = None;
        // A source that numbers by time, or sends a part of its events only, always steps far.
        let longest_step = self.step_behind.saturating_mul(MARGIN).min(LONGEST_STEP);
        self.longest_step = self.longest_step.max(longest_step);
        Step::Confirmed(first)
    }
}

/// Where a lost connection resumes: the newest seq that was read, except for leaps that nothing has
/// confirmed. It knows the seqs only.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResumePoint {
    seq: u64,
    /// The highest seq that was no leap.
    highest: u64,
    leaps: Leaps,
}

impl ResumePoint {
    pub fn new(seq: u64) -> Self {
        Self {
            seq,
            highest: seq,
            leaps: Leaps::default(),
        }
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether `seq` is a leap after what was read.
    pub fn is_leap(&self, seq: u64) -> bool {
        self.leaps.is_leap(self.highest, seq)
    }

    /// Notes a seq that was read. A lower one counts at once, because to resume too early costs
    /// only time.
    pub fn note(&mut self, seq: u64) {
        if !self.is_leap(seq) {
            self.leaps.held = None;
            self.highest = self.highest.max(seq);
            self.seq = seq;
            return;
        }
        let seen = Seen {
            position: Position { seq, time: None },
            account: None,
            is_next: true,
            at: Instant::now(),
        };
        if self.leaps.judge(self.highest, seen) != Step::Held {
            self.highest = seq;
            self.seq = seq;
        }
    }
}
