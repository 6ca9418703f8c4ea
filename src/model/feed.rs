//! The identity of the change feed, and positions in it.
//!
//! Numbers alone do not say where a reader stands. After a loss of power, or in a copy of the database
//! that was restored, the last numbers are given out again, to other changes. So the feed has an id, and
//! each start of a worker begins an epoch. A position names both.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The random id of a feed or an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RandomId(Arc<str>);

impl RandomId {
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// One that no other process has.
    pub fn random() -> Self {
        Self::new(&format!("{:032x}", fastrand::u128(..)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RandomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A start of a worker on the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub id: RandomId,
    /// The first number that it could give out.
    pub first_change: u64,
}

/// What a database knows of its feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    pub id: RandomId,
    /// In their order. The last one is in progress.
    pub epochs: Vec<Epoch>,
    /// The last number that was given out.
    pub last: u64,
}

/// A position in a feed: the reader has everything up to `change`, as the database was in `epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPosition {
    pub feed: RandomId,
    pub epoch: RandomId,
    pub change: u64,
}

/// The text of a position is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is FEED:EPOCH:CHANGE, as the feed names it in last_seq")]
pub struct InvalidPosition;

impl Feed {
    /// The number behind which a reader at `position` begins. 0 is the beginning: the database does not
    /// know what the reader has. Numbers behind the end of the position's epoch were lost and given out
    /// again, so the reader goes back to that end.
    pub fn begin(&self, position: Option<&FeedPosition>) -> u64 {
        let Some(position) = position.filter(|position| position.feed == self.id) else {
            return 0;
        };
        let is_of = |epoch: &Epoch| epoch.id == position.epoch;
        match self.epochs.iter().position(is_of) {
            Some(index) => position.change.min(self.end_of(index)),
            None => 0,
        }
    }

    /// Whether the change of this number, given out by `epoch`, is in the database's past. Then it is
    /// older than every change with a higher number. Otherwise it was lost, or is another database's.
    pub fn remembers(&self, epoch: &RandomId, change: u64) -> bool {
        let index = self.epochs.iter().position(|known| known.id == *epoch);
        index.is_some_and(|index| change <= self.end_of(index))
    }

    /// The last number of an epoch that is still what it was.
    pub fn end_of(&self, epoch: usize) -> u64 {
        match self.epochs.get(epoch + 1) {
            Some(next) => next.first_change.saturating_sub(1),
            None => self.last,
        }
    }

    /// The epoch that gave out `change`; `None` if the database has no epoch yet.
    pub fn epoch_of(&self, change: u64) -> Option<&RandomId> {
        let begun = |epoch: &&Epoch| epoch.first_change <= change;
        let epoch = self.epochs.iter().rev().find(begun);
        epoch.or(self.epochs.first()).map(|epoch| &epoch.id)
    }

    /// The position of a reader that has everything up to `change`. It names the epoch in progress,
    /// whichever epoch gave out the number: what was written before may have been another state.
    pub fn position(&self, change: u64) -> Option<FeedPosition> {
        Some(FeedPosition {
            feed: self.id.clone(),
            epoch: self.epochs.last()?.id.clone(),
            change,
        })
    }
}

impl fmt::Display for FeedPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.feed, self.epoch, self.change)
    }
}

impl FromStr for FeedPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let mut parts = text.split(':');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let (feed, epoch, change) = (next(), next(), next());
        let is_over = parts.next().is_none();
        match (feed, epoch, change.map(str::parse)) {
            (Some(feed), Some(epoch), Some(Ok(change))) if is_over => Ok(Self {
                feed: RandomId::new(feed),
                epoch: RandomId::new(epoch),
                change,
            }),
            _ => Err(InvalidPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(epochs: &[(&str, u64)], last: u64) -> Feed {
        let epoch = |(id, first_change): &(&str, u64)| Epoch {
            id: RandomId::new(id),
            first_change: *first_change,
        };
        Feed {
            id: RandomId::new("feed"),
            epochs: epochs.iter().map(epoch).collect(),
            last,
        }
    }

    fn begin(feed: &Feed, position: &str) -> u64 {
        feed.begin(Some(&position.parse().unwrap()))
    }

    /// Holds invariant 10.2.
    #[test]
    fn a_reader_whose_feed_or_epoch_is_unknown_begins_anew() {
        let feed = feed(&[("a", 1), ("b", 11)], 20);
        assert_eq!(feed.begin(None), 0);
        assert_eq!(begin(&feed, "other:b:15"), 0);
        assert_eq!(begin(&feed, "feed:c:15"), 0);
        assert_eq!(begin(&feed, "feed:b:15"), 15);
        assert_eq!(begin(&feed, "feed:a:5"), 5);
    }

    /// Holds invariant 10.2.
    #[test]
    fn a_reader_beyond_the_end_of_its_epoch_goes_back_to_that_end() {
        let feed = feed(&[("a", 1), ("b", 11)], 20);
        assert_eq!(begin(&feed, "feed:a:10"), 10);
        assert_eq!(begin(&feed, "feed:a:18"), 10);
        assert_eq!(begin(&feed, "feed:b:25"), 20);
    }

    /// Holds invariant 10.2.
    #[test]
    fn a_change_that_was_lost_is_not_remembered() {
        let feed = feed(&[("a", 1), ("b", 11)], 20);
        let remembers = |epoch: &str, change| feed.remembers(&RandomId::new(epoch), change);
        assert!(remembers("a", 10) && remembers("b", 20));
        assert!(!remembers("a", 11) && !remembers("b", 21) && !remembers("c", 1));
    }

    #[test]
    fn a_change_belongs_to_the_epoch_that_gave_out_its_number() {
        let feed = feed(&[("a", 1), ("b", 11), ("c", 11)], 20);
        let epoch = |change| feed.epoch_of(change).unwrap().as_str();
        assert_eq!([epoch(1), epoch(10), epoch(11)], ["a", "a", "c"]);
        assert_eq!(feed.position(3).unwrap().to_string(), "feed:c:3");
    }

    #[test]
    fn a_position_is_read_as_it_is_written_and_nothing_else_is_one() {
        for text in ["feed:a:7", "f:e:18446744073709551615"] {
            let position: FeedPosition = text.parse().unwrap();
            assert_eq!(position.to_string(), text);
        }
        for text in [
            "",
            "7",
            "feed:a",
            "feed:a:",
            "feed:a:-1",
            "feed:a:1:2",
            ":a:1",
            "0",
        ] {
            assert_eq!(text.parse::<FeedPosition>(), Err(InvalidPosition), "{text}");
        }
    }

    proptest! {
        /// Starts, writes and losses of power in any order. A reader that reads now and then never stands
        /// behind a number whose change it has not seen.
        #[test]
        fn whatever_is_lost_a_reader_sees_every_change(
            steps in prop::collection::vec((0_u8..4, 1_u64..5), 1..60),
        ) {
            // A change is the epoch in which it was written, by its number.
            let mut changes: Vec<usize> = Vec::new();
            let mut epochs: Vec<(String, u64)> = Vec::new();
            let mut seen: Vec<usize> = Vec::new();
            let mut position: Option<FeedPosition> = None;
            let mut starts = 0;
            let mut start = |changes: &Vec<usize>, epochs: &mut Vec<(String, u64)>| {
                starts += 1;
                epochs.push((format!("e{starts}"), changes.len() as u64 + 1));
                starts
            };
            let mut epoch = start(&changes, &mut epochs);
            for (step, count) in steps {
                match step {
                    0 | 1 => changes.extend((0..count).map(|_| epoch)),
                    // A loss of power: the last changes are gone, and the epoch stays known.
                    2 => {
                        let first = epochs.last().map_or(0, |(_, first)| *first as usize - 1);
                        let left = changes.len().saturating_sub(count as usize).max(first);
                        changes.truncate(left);
                        epoch = start(&changes, &mut epochs);
                    }
                    // A copy from before the last epochs is restored.
                    _ => {
                        let kept = epochs.len().saturating_sub(count as usize).max(1);
                        if let Some((_, first)) = epochs.get(kept) {
                            changes.truncate(*first as usize - 1);
                        }
                        epochs.truncate(kept);
                        epoch = start(&changes, &mut epochs);
                    }
                }
                let names: Vec<(&str, u64)> =
                    epochs.iter().map(|(id, first)| (id.as_str(), *first)).collect();
                let feed = feed(&names, changes.len() as u64);
                let begin = feed.begin(position.as_ref()) as usize;
                prop_assert!(begin <= changes.len());
                seen.truncate(begin);
                seen.extend(&changes[begin..]);
                prop_assert_eq!(&seen, &changes);
                position = feed.position(changes.len() as u64);
            }
        }
    }
}
