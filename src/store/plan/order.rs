//! What comes after what: whether an event or a commit is newer than the one that set a row.
//!
//! Times and revs are written by accounts and their hosts, and seqs by the source. Any of them may
//! be wrong, and a wrong one must not keep a row as it is for ever. `docs/guards.md` lists what each
//! guard trusts.

use jiff::{SignedDuration, Timestamp};

use crate::atproto::syntax::Tid;
use crate::atproto::verify::MAX_AHEAD;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{ChainUpdate, RecordVersion};

/// The time at which a plan is made.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Timestamp,
    /// A later time or rev guards nothing.
    pub latest_credible: Timestamp,
    /// The latest time that this version believes where the source's clock shows that ours is
    /// behind.
    pub latest_possible: Timestamp,
}

/// The most by which the source's clock corrects ours. See `source/clock.rs`.
const MAX_CORRECTION: SignedDuration = SignedDuration::from_hours(24);

impl Moment {
    pub fn at(now: Timestamp) -> Self {
        let after =
            |time: Timestamp, duration| time.checked_add(duration).unwrap_or(Timestamp::MAX);
        let latest_credible = after(now, MAX_AHEAD);
        Self {
            now,
            latest_credible,
            latest_possible: after(latest_credible, MAX_CORRECTION),
        }
    }

    /// Whether a rev does not lie ahead.
    fn is_credible_rev(&self, rev: &str) -> bool {
        Tid::parse(rev).is_ok_and(|rev| rev.timestamp() <= self.latest_credible)
    }

    /// Whether a commit with this rev can have been verified. A row with a later one is of an
    /// earlier version, or only seems to be verified.
    pub fn can_be_proven(&self, rev: &str) -> bool {
        Tid::parse(rev).is_ok_and(|rev| rev.timestamp() <= self.latest_possible)
    }
}

/// The event that set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// `None` if it is unknown, because an earlier version set the value.
    pub source: Option<String>,
    pub seq: u64,
    pub time: String,
}

/// Where an event of a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
}

impl Event {
    pub(super) fn of(version: &RecordVersion) -> Self {
        Self {
            seq: version.seq,
            time: version.time,
        }
    }

    pub(super) fn of_chain(update: &ChainUpdate) -> Self {
        Self {
            seq: update.seq,
            time: update.time,
        }
    }
}

/// The commit that set a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp<'a> {
    pub(super) rev: &'a str,
    pub(super) source: Option<&'a str>,
    pub(super) seq: u64,
    /// The earlier of the event's time and our time of its receipt, as far as they are known.
    pub(super) time: Option<Timestamp>,
    /// The commit was verified, at any level.
    pub(super) is_proven: bool,
}

impl<'a> Stamp<'a> {
    pub(super) fn of(version: &'a RecordVersion, source: &'a SourceId) -> Self {
        Self {
            rev: version.rev.as_str(),
            source: Some(source.as_str()),
            seq: version.seq,
            time: Some(version.time),
            is_proven: version.verified.is_some(),
        }
    }
}

/// The order of the events of a task, and of what the rows were set by.
#[derive(Clone, Debug)]
pub(super) struct Order<'a> {
    pub(super) source: Option<&'a SourceId>,
    /// The source's durable cursor before the task. A seq in a row is of the sequence that is
    /// followed only up to it: a higher one is of an earlier sequence, or was made up.
    pub(super) cursor: Option<u64>,
    /// The position after the task, if it is of the stream. A higher seq is a leap that no other
    /// event has confirmed yet.
    pub(super) through: Option<u64>,
    /// The source's seqs began again within the task.
    pub(super) is_restarted: bool,
    pub(super) moment: Moment,
}

impl Order<'_> {
    /// The event of the source with this seq and time, as a row stores it. What lies ahead counts
    /// only as far as it is credible.
    pub(super) fn as_of(&self, event: Event) -> AsOf {
        let reached = self.through.map(|_| self.through.max(self.cursor));
        AsOf {
            source: self.source.map(|source| source.as_str().to_owned()),
            seq: event.seq.min(reached.flatten().unwrap_or(u64::MAX)),
            time: self.credible_time(event.time),
        }
    }

    /// `time`, or the latest possible one. The source's clock has bounded it more closely before.
    pub(super) fn credible_time(&self, time: Timestamp) -> String {
        sortable(time.min(self.moment.latest_possible))
    }

    /// Whether the event of the source comes after the one that set a row.
    ///
    /// Within one sequence of a source its seqs decide. Between sources, and where a seq does not
    /// tell, the times decide, because relays renumber seqs but keep times.
    pub(super) fn is_after(&self, event: Event, known: &AsOf) -> bool {
        let Event { seq, time } = event;
        let is_of_source = self.is_of_source(known.source.as_deref());
        if is_of_source && self.is_followed(known.seq) && self.is_in_line(seq) {
            return seq > known.seq;
        }
        if is_of_source && seq == known.seq && time > self.moment.now {
            // The same event again. Its time lies ahead, so it was cut to another one each time.
            return false;
        }
        if known.time > sortable(self.moment.latest_credible) {
            return true;
        }
        let time = self.credible_time(time);
        let is_next = is_of_source && self.is_in_line(seq) && seq > known.seq;
        time > known.time || (time == known.time && is_next)
    }

    /// Whether an event of the source with this seq does not come after the one that set a row. False
    /// if the seqs do not tell.
    pub(super) fn precedes(&self, seq: u64, known: &AsOf) -> bool {
        let is_comparable = self.is_of_source(known.source.as_deref()) && !self.is_restarted;
        is_comparable && self.is_in_line(known.seq) && seq <= known.seq
    }

    /// Whether the second event of the task comes after the first one.
    pub(super) fn is_later(&self, first: Event, second: Event) -> bool {
        let is_in_line = self.is_in_line(first.seq) && self.is_in_line(second.seq);
        match is_in_line && !self.is_restarted {
            true => (second.seq, second.time) > (first.seq, first.time),
            false => (second.time, second.seq) > (first.time, first.seq),
        }
    }

    /// Whether a row that an event of `source` set stays when its account is removed by the event
    /// `removed`. `time` is the earlier of the event's time and our time of its receipt.
    pub(super) fn survives(&self, row: (Option<&str>, Option<u64>, &str), removed: &AsOf) -> bool {
        let (source, seq, time) = row;
        let is_of_source = source.is_some() && source == removed.source.as_deref();
        match seq.filter(|seq| is_of_source && self.is_followed(*seq)) {
            Some(seq) => seq > removed.seq,
            None => time > removed.time.as_str(),
        }
    }

    /// Whether a commit is newer than the one that set a row.
    ///
    /// Unproven never bounds proven. Proven commits are ordered by rev. Unproven ones are ordered by
    /// seq within one sequence of a source, unless an old event comes again under a new seq, and else
    /// by rev.
    pub(super) fn is_newer(&self, new: Stamp<'_>, known: Stamp<'_>) -> bool {
        let is_known_proven = known.is_proven && self.moment.can_be_proven(known.rev);
        match (is_known_proven, new.is_proven) {
            (true, _) => return new.rev > known.rev,
            (false, true) => return true,
            (false, false) => {}
        }
        let is_of_source = self.is_of_source(known.source);
        if is_of_source && self.is_followed(known.seq) && self.is_in_line(new.seq) {
            return new.seq > known.seq && !is_repetition(new, known);
        }
        let is_credible = |stamp: Stamp<'_>| self.moment.is_credible_rev(stamp.rev);
        match (is_credible(known), is_credible(new)) {
            (false, true) => true,
            (true, false) => self.is_in_line(new.seq),
            _ => new.rev > known.rev,
        }
    }

    /// Whether the second change of a record in the task replaces the first one.
    pub(super) fn is_at_least_as_new(&self, first: Stamp<'_>, second: Stamp<'_>) -> bool {
        match (first.is_proven, second.is_proven) {
            (false, true) => true,
            (true, _) => second.rev >= first.rev,
            (false, false) if self.is_restarted => true,
            (false, false) if self.is_in_line(first.seq) && self.is_in_line(second.seq) => {
                second.seq >= first.seq && !is_repetition(second, first)
            }
            (false, false) => {
                let is_credible = |stamp: Stamp<'_>| self.moment.is_credible_rev(stamp.rev);
                (is_credible(second), second.rev) >= (is_credible(first), first.rev)
            }
        }
    }

    fn is_of_source(&self, known: Option<&str>) -> bool {
        let source = self.source.map(SourceId::as_str);
        source.is_some() && source == known
    }

    /// Whether the seq of a row is of the sequence that is followed.
    pub(super) fn is_followed(&self, known: u64) -> bool {
        !self.is_restarted && self.cursor.is_some_and(|cursor| known <= cursor)
    }

    /// Whether the seq of an event is one up to which the source is followed.
    fn is_in_line(&self, seq: u64) -> bool {
        let reached = self.through.max(self.cursor);
        self.through.is_none() || reached.is_some_and(|reached| seq <= reached)
    }
}

/// Whether an unproven commit with a higher seq is an old one that comes again: both its rev and its
/// time are earlier. A clock that was ahead and was set back changes the revs only, because the time
/// of a row is not later than its receipt.
fn is_repetition(new: Stamp<'_>, known: Stamp<'_>) -> bool {
    let times = new.time.zip(known.time);
    new.rev < known.rev && times.is_some_and(|(new, known)| new < known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const OF_2090: &str = "5fo7oocwk2222";

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(NOW + second).unwrap()
    }

    fn at(seq: u64, time: i64) -> Event {
        let time = second(time);
        Event { seq, time }
    }

    fn source() -> SourceId {
        SourceId::new("wss://relay.example/")
    }

    fn order(source: &SourceId, cursor: u64, through: u64) -> Order<'_> {
        Order {
            source: Some(source),
            cursor: Some(cursor),
            through: Some(through),
            is_restarted: false,
            moment: Moment::at(second(0)),
        }
    }

    fn as_of(source: &str, seq: u64, time: i64) -> AsOf {
        AsOf {
            source: Some(source.to_owned()),
            seq,
            time: sortable(second(time)),
        }
    }

    fn own(seq: u64, time: i64) -> AsOf {
        as_of(source().as_str(), seq, time)
    }

    fn stamp(rev: &str, seq: u64, is_proven: bool) -> Stamp<'_> {
        Stamp {
            rev,
            source: Some("wss://relay.example/"),
            seq,
            time: None,
            is_proven,
        }
    }

    #[test]
    fn within_a_sequence_the_seq_decides_whatever_the_times_say() {
        let source = source();
        let order = order(&source, 10, 20);
        for time in [-1_000_000, 0, 1_000_000] {
            assert!(order.is_after(at(11, time), &own(10, 86_400)));
            assert!(!order.is_after(at(9, time), &own(10, -86_400)));
            assert!(!order.is_after(at(10, time), &own(10, -86_400)));
        }
    }

    #[test]
    fn between_sources_the_time_decides() {
        let source = source();
        let order = order(&source, 10, 20);
        let known = as_of("wss://other.example/", 5, -60);
        assert!(order.is_after(at(11, -59), &known));
        assert!(!order.is_after(at(11, -60), &known));
        let unknown = AsOf {
            source: None,
            ..known
        };
        assert!(order.is_after(at(11, -59), &unknown));
        assert!(!order.is_after(at(11, -61), &unknown));
    }

    #[test]
    fn a_stored_time_that_lies_ahead_guards_nothing() {
        let source = source();
        let order = order(&source, 10, 20);
        let known = as_of("wss://other.example/", 5, 86_400);
        assert!(order.is_after(at(11, -3600), &known));
    }

    #[test]
    fn a_sequence_that_began_again_is_not_frozen_out_by_higher_seqs() {
        let source = source();
        // The cursor is at 3 of the new sequence.
        let known = own(1000, -60);
        assert!(order(&source, 3, 4).is_after(at(4, -59), &known));
        assert!(!order(&source, 3, 4).is_after(at(4, -61), &known));
        // It began again within the batch.
        let order = Order {
            is_restarted: true,
            ..order(&source, 2000, 4)
        };
        assert!(order.is_after(at(4, -59), &known));
    }

    #[test]
    fn a_seq_that_leaps_ahead_does_not_stay_ahead() {
        let source = source();
        let order = order(&source, 10, 12);
        assert_eq!(order.as_of(at(1 << 52, 0)).seq, 12);
        assert_eq!(order.as_of(at(11, 0)).seq, 11);
        // When it is sent again, its time decides.
        assert!(!order.is_after(at(1 << 52, -10), &own(10, -5)));
    }

    #[test]
    fn a_time_that_lies_ahead_is_stored_as_the_latest_possible_one() {
        let source = source();
        let order = order(&source, 10, 12);
        let stored = order.as_of(at(11, 365 * 86_400)).time;
        assert_eq!(stored, sortable(second(86_400 + 300)));
    }

    #[test]
    fn unproven_never_bounds_proven() {
        let source = source();
        let order = order(&source, 10, 20);
        let newest = "3mzzzzzzzzzz2";
        assert!(order.is_newer(stamp("3k22222222222", 3, true), stamp(newest, 9, false)));
        assert!(!order.is_newer(stamp("3k22222222222", 11, true), stamp(newest, 9, true)));
        assert!(order.is_newer(stamp(newest, 11, false), stamp("3k22222222222", 9, true)));
    }

    #[test]
    fn a_proven_rev_of_the_future_bounds_nothing() {
        let source = source();
        let order = order(&source, 10, 20);
        assert!(!order.moment.can_be_proven(OF_2090));
        assert!(order.is_newer(stamp("3k22222222222", 11, true), stamp(OF_2090, 9, true)));
    }

    #[test]
    fn unproven_commits_of_one_sequence_are_ordered_by_seq() {
        let source = source();
        let order = order(&source, 10, 20);
        let (older, newer) = ("3k22222222222", OF_2090);
        assert!(order.is_newer(stamp(older, 11, false), stamp(newer, 10, false)));
        assert!(!order.is_newer(stamp(newer, 9, false), stamp(older, 10, false)));
        assert!(order.is_at_least_as_new(stamp(newer, 11, false), stamp(older, 12, false)));
        // Of another sequence: the rev decides, if it is credible.
        assert!(order.is_newer(stamp(older, 11, false), stamp(newer, 1000, false)));
        let newer = "3k22222222223";
        assert!(!order.is_newer(stamp(older, 11, false), stamp(newer, 1000, false)));
    }
}
