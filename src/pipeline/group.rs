//! Joins batches into groups while there is a backlog. A group is written by one transaction.
//!
//! A transaction of a thousand changes takes less than ten of a hundred. So if more than one full
//! batch waits, several are written together. A group that is refused is taken apart: its batches are
//! written one by one, and a new group forms only when all of them are settled.

use std::collections::VecDeque;
use std::time::Duration;

use super::accumulator::{Accumulator, IndexBatch, Load};
use crate::model::Position;

/// The most changes of a group: chain updates, and other changes. A larger `index_batch` is a group by
/// itself.
const GROUP_CHANGES: usize = 1000;
/// The most bytes of records and frames of a group. With the other columns of their rows, about 4 MiB
/// are sent to the database, which is one trip.
pub const GROUP_BYTES: usize = 3 << 20;
/// How long the transaction of a group may take. The size of the next one follows from the time that
/// the last one took.
const GROUP_TIME: Duration = Duration::from_millis(50);

/// Batches that are written by one transaction; often only one.
#[derive(Debug)]
pub struct Group<L> {
    /// All batches, as if they were one.
    pub whole: IndexBatch<L>,
    /// Where each batch ends in it.
    ends: Vec<End>,
}

/// The end of a batch in its group.
#[derive(Clone, Copy, Debug)]
struct End {
    /// The number of effects up to it, and of completed batches of frames.
    effects: usize,
    completes: usize,
    position: Position,
    sequence_restarted: bool,
    is_unfinished: bool,
}

/// How many changes the next group may have.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    least: usize,
    most: usize,
    changes: usize,
}

impl<L> Group<L> {
    /// Cuts the next group from what waits. Without a backlog it is a single batch.
    pub fn cut(waiting: &mut Accumulator<L>, pace: Pace) -> Option<Self> {
        let first = waiting.cut()?;
        let mut load = Load::of(&first.effects);
        let may_grow = !first.is_suspect;
        let mut group = Self::of(first);
        while may_grow && load.size() + waiting.size() <= pace.changes && load.bytes() < GROUP_BYTES
        {
            let Some(next) = waiting.cut_for_group(GROUP_BYTES - load.bytes()) else {
                break;
            };
            load = load + Load::of(&next.effects);
            group.join(next);
        }
        Some(group)
    }

    fn of(batch: IndexBatch<L>) -> Self {
        let ends = vec![End::of(&batch, 0, 0)];
        Self { whole: batch, ends }
    }

    fn join(&mut self, next: IndexBatch<L>) {
        let whole = &mut self.whole;
        let end = End::of(&next, whole.effects.len(), whole.completes.len());
        self.ends.push(end);
        whole.position = next.position;
        whole.sequence_restarted |= next.sequence_restarted;
        whole.is_unfinished = next.is_unfinished;
        whole.effects.extend(next.effects);
        whole.completes.extend(next.completes);
    }

    /// The number of batches.
    pub fn batches(&self) -> usize {
        self.ends.len()
    }

    /// The load of each batch.
    pub fn loads(&self) -> impl Iterator<Item = Load> {
        let mut from = 0;
        self.ends.iter().map(move |end| {
            let effects = &self.whole.effects[from..end.effects];
            from = end.effects;
            Load::of(effects)
        })
    }

    /// Each batch as a group of its own, in order.
    pub fn into_batches(self) -> VecDeque<Self> {
        let mut effects = self.whole.effects;
        let mut completes = self.whole.completes;
        let is_suspect = self.whole.is_suspect;
        let mut batches = VecDeque::new();
        // From the last to the first, so that each is cut off at its end.
        let begins = self.ends.iter().rev().skip(1).copied().map(Some);
        for (end, begin) in self.ends.iter().rev().zip(begins.chain([None])) {
            let begin = begin.map_or((0, 0), |begin| (begin.effects, begin.completes));
            batches.push_front(Self::of(IndexBatch {
                effects: effects.split_off(begin.0),
                completes: completes.split_off(begin.1),
                position: end.position,
                sequence_restarted: end.sequence_restarted,
                is_unfinished: end.is_unfinished,
                is_suspect,
            }));
        }
        batches
    }
}

impl End {
    /// The end of `batch` behind so many effects and completed batches of frames.
    fn of<L>(batch: &IndexBatch<L>, effects: usize, completes: usize) -> Self {
        Self {
            effects: effects + batch.effects.len(),
            completes: completes + batch.completes.len(),
            position: batch.position,
            sequence_restarted: batch.sequence_restarted,
            is_unfinished: batch.is_unfinished,
        }
    }
}

impl Pace {
    /// Begins with single batches of so many changes.
    pub fn new(batch: usize) -> Self {
        let least = batch.max(1);
        Self {
            least,
            most: least.max(GROUP_CHANGES),
            changes: least,
        }
    }

    /// Notes that a transaction of `changes` took `time`. The next group has as many changes as fit
    /// into the time of a group, and at most twice as many as the last one.
    pub fn note(&mut self, changes: usize, time: Duration) {
        let in_time = changes as u128 * GROUP_TIME.as_nanos() / time.as_nanos().max(1);
        let in_time = usize::try_from(in_time).unwrap_or(usize::MAX);
        let doubled = self.changes.saturating_mul(2);
        self.changes = in_time.min(doubled).clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::atproto::syntax::Did;
    use crate::model::{DeadLetter, Stage};
    use crate::pipeline::accumulator::{CommitPoint, IndexWork};
    use crate::store::plan::effect::{Effect, IdentityChange};

    fn at(seq: u64) -> Position {
        Position { seq, time: None }
    }

    fn effect(seq: u64) -> Effect {
        Effect::Identity(IdentityChange {
            did: Did::parse("did:plc:abc").unwrap(),
            handle: None,
            seq,
            time: Timestamp::UNIX_EPOCH,
        })
    }

    fn letter(bytes: usize) -> Effect {
        Effect::DeadLetter(Box::new(DeadLetter {
            stage: Stage::Decode,
            error: String::new(),
            seq: None,
            did: None,
            uri: None,
            task: None,
            raw: vec![0; bytes].into(),
            attempts: 1,
        }))
    }

    /// Work of `effects`, each an event. The last one has the seq `last`, which names the work.
    fn work(last: u64, effects: Vec<Effect>) -> IndexWork<u64> {
        let count = effects.len();
        let point = |effects: usize| CommitPoint {
            effects,
            position: at(last - (count - effects) as u64),
        };
        IndexWork {
            batch: last,
            commit_points: (1..=count).map(point).collect(),
            effects,
            position: at(last),
            sequence_restarted: false,
            is_suspect: false,
        }
    }

    fn waiting(size: usize, works: impl IntoIterator<Item = IndexWork<u64>>) -> Accumulator<u64> {
        let mut waiting = Accumulator::new(size);
        works.into_iter().for_each(|work| waiting.push(work));
        waiting
    }

    /// A pace that has been fast for long.
    fn fast(size: usize) -> Pace {
        let mut pace = Pace::new(size);
        for _ in 0..20 {
            pace.note(1000, Duration::from_millis(1));
        }
        pace
    }

    fn of_identities(works: u64, each: u64) -> impl Iterator<Item = IndexWork<u64>> {
        (1..=works).map(move |number| {
            let last = number * each;
            work(last, (last - each + 1..=last).map(effect).collect())
        })
    }

    /// Holds invariant 8.11.
    #[test]
    fn without_a_backlog_a_group_is_one_batch() {
        let mut waiting = waiting(100, of_identities(1, 150));
        let group = Group::cut(&mut waiting, fast(100)).unwrap();
        assert_eq!((group.batches(), group.whole.effects.len()), (1, 100));
        assert_eq!(Group::cut(&mut waiting, fast(100)).unwrap().batches(), 1);
        assert!(Group::cut(&mut waiting, fast(100)).is_none());
    }

    /// Holds invariant 8.11.
    #[test]
    fn a_group_is_bounded_by_its_changes() {
        let mut waiting = waiting(100, of_identities(5, 500));
        let group = Group::cut(&mut waiting, fast(100)).unwrap();
        assert_eq!((group.batches(), group.whole.effects.len()), (10, 1000));
        assert_eq!(group.whole.position, at(1000));
        assert_eq!(group.whole.completes, [(500, at(500)), (1000, at(1000))]);
        // A large batch is a group by itself.
        let mut waiting = self::waiting(2000, of_identities(10, 500));
        assert_eq!(Group::cut(&mut waiting, fast(2000)).unwrap().batches(), 1);
    }

    /// Holds invariant 8.11.
    #[test]
    fn a_group_is_bounded_by_its_bytes() {
        let letters = (1..=8).map(|seq| work(seq, vec![letter(GROUP_BYTES / 4)]));
        let mut waiting = waiting(1, letters);
        let sizes = std::iter::from_fn(|| Group::cut(&mut waiting, fast(1)));
        assert_eq!(
            sizes.map(|group| group.batches()).collect::<Vec<_>>(),
            [4, 4]
        );
    }

    /// Holds invariant 8.11.
    #[test]
    fn a_group_is_bounded_by_the_time_that_the_last_one_took() {
        let mut pace = Pace::new(100);
        assert_eq!(pace.changes, 100);
        pace.note(100, Duration::from_millis(5));
        assert_eq!(pace.changes, 200, "at most twice as many");
        pace.note(200, Duration::from_millis(40));
        assert_eq!(pace.changes, 250);
        pace.note(250, Duration::from_secs(5));
        assert_eq!(pace.changes, 100, "never less than a batch");
        for _ in 0..5 {
            pace.note(100, Duration::ZERO);
        }
        assert_eq!(pace.changes, GROUP_CHANGES);
    }

    /// Holds invariant 5.8: a suspect batch has a transaction of its own.
    #[test]
    fn a_suspect_batch_is_in_no_group() {
        let works = of_identities(5, 100)
            .enumerate()
            .map(|(index, work)| IndexWork {
                is_suspect: index == 2,
                ..work
            });
        let mut waiting = waiting(100, works);
        let sizes = std::iter::from_fn(|| Group::cut(&mut waiting, fast(100)));
        let sizes: Vec<_> = sizes.map(|group| group.batches()).collect();
        assert_eq!(sizes, [2, 1, 2]);
    }

    proptest! {
        /// Holds invariant 1.2: a group that is taken apart is the batches of which it was made.
        #[test]
        fn the_batches_of_a_group_are_what_would_have_been_cut_without_it(
            works in prop::collection::vec(0..250_u64, 1..20),
            size in 1..120_usize,
        ) {
            let works = || {
                let mut last = 0;
                works.iter().map(move |count| {
                    let first = last + 1;
                    last += count.max(&1);
                    work(last, (first..first + count).map(effect).collect())
                })
            };
            let (mut single, mut grouped) = (waiting(size, works()), waiting(size, works()));
            while let Some(group) = Group::cut(&mut grouped, fast(size)) {
                let loads: Vec<Load> = group.loads().collect();
                let batches = group.into_batches();
                prop_assert_eq!(loads.len(), batches.len());
                for (load, batch) in loads.into_iter().zip(batches) {
                    let (batch, expected) = (batch.whole, single.cut().unwrap());
                    prop_assert_eq!(load, Load::of(&batch.effects));
                    prop_assert_eq!(batch.effects, expected.effects);
                    prop_assert_eq!(batch.completes, expected.completes);
                    prop_assert_eq!(batch.position, expected.position);
                    prop_assert_eq!(batch.is_unfinished, expected.is_unfinished);
                }
            }
            prop_assert!(single.cut().is_none());
        }
    }
}
