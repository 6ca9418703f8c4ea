//! What is remembered of the events of a sequence: enough to recognize a replay, and what time it
//! is there.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::witnesses::{Account, Seen};
use crate::model::Position;

/// The number of newest events that are recognized.
const REMEMBERED: usize = 1024;
/// The number of accounts whose times give the time of the sequence. It is odd, so there is a
/// middle one.
const TIMES: usize = 15;

/// The newest events of a sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownEvents {
    /// The time of each event, by seq.
    events: BTreeMap<u64, Option<Timestamp>>,
    /// The newest times. An account that is known has one of them.
    times: VecDeque<(Option<Account>, Timestamp)>,
}

impl KnownEvents {
    /// After a start, only the cursor is known.
    pub(super) fn at(position: Position) -> Self {
        let mut known = Self::default();
        known.times.extend(position.time.map(|time| (None, time)));
        known
    }

    pub(super) fn add(&mut self, seen: Seen) {
        let Position { seq, time } = seen.position;
        self.events.insert(seq, time);
        if self.events.len() > REMEMBERED {
            self.events.pop_first();
        }
        let Some(time) = time else {
            return;
        };
        if seen.account.is_some() {
            self.times.retain(|(account, _)| *account != seen.account);
        }
        self.times.push_back((seen.account, time));
        if self.times.len() > TIMES {
            self.times.pop_front();
        }
    }

    /// Whether this very event was seen.
    pub(super) fn has(&self, event: Position) -> bool {
        event.time.is_some() && self.events.get(&event.seq) == Some(&event.time)
    }

    /// The median of the newest times, so that no single account's clock decides. Times beyond
    /// `latest_credible` do not count.
    pub(super) fn time(&self, latest_credible: Timestamp) -> Option<Timestamp> {
        let times = self.times.iter().map(|(_, time)| *time);
        let mut times: Vec<Timestamp> = times.filter(|time| *time <= latest_credible).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}
