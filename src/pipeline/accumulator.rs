//! Gathers effects into transactions.

use std::collections::VecDeque;
use std::ops::{Add, Sub};

use crate::model::Position;
use crate::store::plan::effect::Effect;

/// The effects of one batch of frames.
#[derive(Debug)]
pub struct IndexWork<L> {
    /// What is acked when the work is durable: in the pipeline, the batch with its lease.
    pub batch: L,
    pub effects: Vec<Effect>,
    /// The position that is reached after a number of effects: one entry for each event, ascending.
    pub commit_points: Vec<CommitPoint>,
    /// The position after the whole batch.
    pub position: Position,
    pub sequence_restarted: bool,
    /// Whether a handler has died with this work in hand. Then it is applied alone.
    pub is_suspect: bool,
}

/// Says that everything up to `position` is durable when the first `effects` effects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPoint {
    pub effects: usize,
    pub position: Position,
}

/// Effects and a cursor that become durable together.
#[derive(Debug)]
pub struct IndexBatch<L> {
    pub effects: Vec<Effect>,
    pub position: Position,
    pub sequence_restarted: bool,
    /// The batches that are complete when this is durable, each with the position after it.
    pub completes: Vec<(L, Position)>,
    /// Whether its last effects are the beginning of the work that waits first.
    pub is_unfinished: bool,
    /// Whether a handler has died with it in hand. Then no other batch shares its transaction.
    pub is_suspect: bool,
}

/// Work that waits to be cut into batches, in order.
#[derive(Debug)]
pub struct Accumulator<L> {
    waiting: VecDeque<IndexWork<L>>,
    load: Load,
    /// The load of a full batch.
    size: usize,
}

/// The bytes of effects of a full batch. The effects of one event may be more.
const TRANSACTION_BYTES: usize = 8 << 20;

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Chain updates, and other changes.
    changes: usize,
    bytes: usize,
}

impl Limit {
    fn of(changes: usize) -> Self {
        let bytes = TRANSACTION_BYTES;
        Self { changes, bytes }
    }
}

/// How much of a transaction effects fill. Chain updates and all other changes are counted
/// separately, because a chain update is written together with the records of its commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    chain_updates: usize,
    others: usize,
    /// What is written of them.
    bytes: usize,
}

impl<L> Accumulator<L> {
    pub fn new(size: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            load: Load::default(),
            size: size.max(1),
        }
    }

    /// The load of a full batch.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn push(&mut self, work: IndexWork<L>) {
        self.load = self.load + Load::of(&work.effects);
        self.waiting.push_back(work);
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
        self.load = Load::default();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The batch of the work that waits first.
    pub fn first_batch(&mut self) -> Option<&mut L> {
        self.waiting.front_mut().map(|work| &mut work.batch)
    }

    /// How many chain updates, records and other changes are queued.
    pub fn depth(&self) -> usize {
        self.load.total()
    }

    /// Whether a transaction should be written now, without waiting for more effects.
    pub fn is_due(&self) -> bool {
        self.load.fills(Limit::of(self.size)) || self.waiting.iter().any(|work| work.is_suspect)
    }

    /// Cuts the next batch, with a load of about `size`. It holds only whole events. A suspect batch
    /// is cut by itself.
    pub fn cut(&mut self) -> Option<IndexBatch<L>> {
        let limit = Limit::of(self.size);
        let is_suspect = self.waiting.front()?.is_suspect;
        self.cut_within(limit, true).map(|mut batch| {
            batch.is_suspect = is_suspect;
            batch
        })
    }

    /// Cuts another batch for a group, if a full one waits that has no more bytes than `bytes` and
    /// is not suspect.
    pub fn cut_for_group(&mut self, bytes: usize) -> Option<IndexBatch<L>> {
        let is_suspect = self.waiting.front()?.is_suspect;
        if is_suspect || !self.load.fills(Limit::of(self.size)) {
            return None;
        }
        let bytes = bytes.min(TRANSACTION_BYTES);
        let changes = self.size;
        self.cut_within(Limit { changes, bytes }, false)
    }

    /// `must`: the batch has the first event, even if that alone is beyond the limit.
    fn cut_within(&mut self, limit: Limit, must: bool) -> Option<IndexBatch<L>> {
        let mut transaction = IndexBatch {
            effects: Vec::new(),
            position: self.waiting.front()?.position,
            sequence_restarted: false,
            completes: Vec::new(),
            is_unfinished: false,
            is_suspect: false,
        };
        let mut load = Load::default();
        while let Some(work) = self.waiting.front_mut() {
            let is_first = transaction.effects.is_empty() && transaction.completes.is_empty();
            if !is_first && (work.is_suspect || load.fills(limit)) {
                break;
            }
            let is_alone = work.is_suspect;
            let whole = load + Load::of(&work.effects);
            if !whole.is_within(limit) && !is_alone {
                let Some(point) = work.commit_point_at(load, limit, is_first && must) else {
                    break;
                };
                transaction.sequence_restarted |= work.sequence_restarted;
                if point.effects < work.effects.len() {
                    transaction
                        .effects
                        .extend(work.effects.drain(..point.effects));
                    transaction.position = point.position;
                    transaction.is_unfinished = true;
                    work.shift_commit_points(point.effects);
                    break;
                }
            }
            let Some(work) = self.waiting.pop_front() else {
                break;
            };
            load = whole;
            transaction.sequence_restarted |= work.sequence_restarted;
            transaction.effects.extend(work.effects);
            transaction.position = work.position;
            transaction.completes.push((work.batch, work.position));
            if is_alone {
                break;
            }
        }
        self.load = self.load - Load::of(&transaction.effects);
        // An event may have no effects.
        let is_cut = !transaction.completes.is_empty() || transaction.is_unfinished;
        is_cut.then_some(transaction)
    }
}

impl<L> IndexWork<L> {
    /// Returns the last commit point up to which `load` stays within `limit`. If none fits and
    /// `must` is set, returns the first one. Effects after the last commit point are not divided.
    fn commit_point_at(&self, mut load: Load, limit: Limit, must: bool) -> Option<CommitPoint> {
        let end = CommitPoint {
            effects: self.effects.len(),
            position: self.position,
        };
        let mut fitting = None;
        let mut counted = 0;
        for point in &self.commit_points {
            load = load + Load::of(&self.effects[counted..point.effects]);
            if !load.is_within(limit) {
                break;
            }
            (fitting, counted) = (Some(point), point.effects);
        }
        let first = self.commit_points.first().unwrap_or(&end);
        fitting.or(must.then_some(first)).copied()
    }

    /// Removes the commit points of the first `cut` effects, and counts the others from there.
    fn shift_commit_points(&mut self, cut: usize) {
        self.commit_points.retain(|point| point.effects > cut);
        for point in &mut self.commit_points {
            point.effects -= cut;
        }
    }
}

impl Load {
    pub fn of(effects: &[Effect]) -> Self {
        effects
            .iter()
            .map(Self::of_one)
            .fold(Self::default(), Add::add)
    }

    fn of_one(effect: &Effect) -> Self {
        let bytes = effect.bytes();
        match effect {
            // Either its records are written, or it is parked.
            Effect::Commit(commit) => Self {
                chain_updates: usize::from(commit.chain.is_some()),
                others: commit.records.len(),
                bytes: bytes.max(commit.chain.as_ref().map_or(0, |chain| chain.frame.len())),
            },
            _ => Self {
                chain_updates: 0,
                others: 1,
                bytes,
            },
        }
    }

    /// The load that counts against the limit of a transaction. The limit applies to each of the
    /// two kinds separately.
    pub fn size(self) -> usize {
        self.chain_updates.max(self.others)
    }

    /// The bytes that are written.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// Whether a batch with this load is full.
    fn fills(self, limit: Limit) -> bool {
        self.size() >= limit.changes || self.bytes >= limit.bytes
    }

    /// Whether a batch may have this load.
    fn is_within(self, limit: Limit) -> bool {
        self.size() <= limit.changes && self.bytes <= limit.bytes
    }

    /// The sum of both kinds.
    pub fn total(self) -> usize {
        self.chain_updates + self.others
    }
}

impl Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            chain_updates: self.chain_updates + other.chain_updates,
            others: self.others + other.others,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sub for Load {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            chain_updates: self.chain_updates - other.chain_updates,
            others: self.others - other.others,
            bytes: self.bytes - other.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cid::Cid;
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
    use crate::model::{DeadLetter, Stage};
    use crate::store::plan::effect::{
        ChainUpdate, CommitEffect, IdentityChange, Predecessor, RecordChange, RecordDelete,
        RecordVersion,
    };

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

    /// A commit with a chain update and `records` records.
    fn commit(seq: u64, records: usize) -> Effect {
        Effect::Commit(Box::new(CommitEffect {
            chain: Some(ChainUpdate {
                did: Did::parse("did:plc:abc").unwrap(),
                rev: Tid::parse("3jzfcijpj2z2a").unwrap(),
                data: Cid::default(),
                seq,
                time: Timestamp::UNIX_EPOCH,
                predecessor: Predecessor::Unstated,
                wants_history: false,
                lacks_record: false,
                has_wanted_ops: true,
                begins_empty: false,
                awaits_directory: false,
                frame: Bytes::new(),
            }),
            records: vec![record(seq); records],
        }))
    }

    fn record(seq: u64) -> RecordChange {
        RecordChange::Delete(RecordDelete {
            version: RecordVersion {
                did: Did::parse("did:plc:abc").unwrap(),
                collection: Nsid::parse("com.huddle.booking").unwrap(),
                rkey: RecordKey::parse("one").unwrap(),
                rev: Tid::parse("3jzfcijpj2z2a").unwrap(),
                seq,
                time: Timestamp::UNIX_EPOCH,
                data: Cid::default(),
                verified: None,
            },
        })
    }

    /// Work with one event for each of `sizes`, which is its number of effects. Seqs begin at
    /// `first_seq`.
    fn work(first_seq: u64, sizes: &[usize]) -> IndexWork<u64> {
        let (mut effects, mut commit_points) = (Vec::new(), Vec::new());
        for (seq, &size) in (first_seq..).zip(sizes) {
            effects.extend((0..size).map(|_| effect(seq)));
            commit_points.push(CommitPoint {
                effects: effects.len(),
                position: at(seq),
            });
        }
        let last = first_seq + sizes.len() as u64;
        IndexWork {
            batch: last,
            effects,
            commit_points,
            position: at(last),
            sequence_restarted: false,
            is_suspect: false,
        }
    }

    #[test]
    fn a_transaction_is_full_at_its_size() {
        let mut accumulator = Accumulator::new(100);
        accumulator.push(work(1, &[1; 60]));
        accumulator.push(work(61, &[1; 60]));
        let first = accumulator.cut().unwrap();
        assert_eq!((first.effects.len(), first.position), (100, at(100)));
        assert_eq!(first.completes, [(61, at(61))]);
        assert!(first.is_unfinished);
        assert_eq!(accumulator.first_batch(), Some(&mut 121));
        let second = accumulator.cut().unwrap();
        assert_eq!((second.effects.len(), second.position), (20, at(121)));
        assert!(!second.is_unfinished);
        assert!(accumulator.cut().is_none());
    }

    #[test]
    fn chain_updates_and_records_are_limited_separately() {
        let mut commits = work(1, &[1; 70]);
        commits.effects.fill_with(|| commit(1, 1));
        let mut accumulator = Accumulator::new(50);
        accumulator.push(commits);
        assert_eq!(accumulator.depth(), 140);
        assert!(accumulator.is_due());
        let first = accumulator.cut().unwrap();
        assert_eq!((first.effects.len(), first.position), (50, at(50)));
        assert_eq!(Load::of(&first.effects).total(), 100);
        assert!(!accumulator.is_due());
        assert_eq!(accumulator.cut().unwrap().effects.len(), 20);
        // Chain updates have a limit of their own.
        let mut without_records = work(1, &[1; 70]);
        without_records.effects.fill_with(|| commit(1, 0));
        accumulator.push(without_records);
        assert_eq!(accumulator.cut().unwrap().effects.len(), 50);
    }

    /// The records of a commit count one by one.
    #[test]
    fn a_batch_is_bounded_by_its_records() {
        let mut commits = work(1, &[1; 10]);
        commits.effects.fill_with(|| commit(1, 30));
        let mut accumulator = Accumulator::new(100);
        accumulator.push(commits);
        assert_eq!(accumulator.cut().unwrap().effects.len(), 3);
    }

    /// Holds invariant 8.8.
    #[test]
    fn a_transaction_is_bounded_by_its_bytes() {
        let letter = |bytes: usize| {
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
        };
        let mut letters = work(1, &[1; 7]);
        letters.effects = [3, 3, 3, 20, 1, 1, 1].map(|mib| letter(mib << 20)).into();
        let mut accumulator = Accumulator::new(100);
        accumulator.push(letters);
        assert!(accumulator.is_due());
        let sizes: Vec<_> = std::iter::from_fn(|| accumulator.cut())
            .map(|transaction| transaction.effects.len())
            .collect();
        assert_eq!(sizes, [2, 1, 1, 3]);
    }

    /// Holds invariant 1.2.
    #[test]
    fn the_effects_of_one_event_are_never_split() {
        let mut accumulator = Accumulator::new(100);
        accumulator.push(work(1, &[60, 60, 180]));
        let sizes: Vec<_> = std::iter::from_fn(|| accumulator.cut())
            .map(|transaction| transaction.effects.len())
            .collect();
        assert_eq!(sizes, [60, 60, 180]);
    }

    #[test]
    fn suspect_work_is_applied_alone_and_at_once() {
        let mut accumulator = Accumulator::new(100);
        accumulator.push(work(1, &[1]));
        accumulator.push(IndexWork {
            is_suspect: true,
            ..work(2, &[1])
        });
        accumulator.push(work(3, &[1]));
        assert!(accumulator.is_due());
        let sizes: Vec<_> = std::iter::from_fn(|| accumulator.cut())
            .map(|transaction| transaction.completes.len())
            .collect();
        assert_eq!(sizes, [1, 1, 1]);
    }

    /// Dead letters of frames that cannot be read have no position.
    #[test]
    fn effects_after_the_last_commit_point_are_not_divided() {
        let mut accumulator = Accumulator::new(2);
        let mut work = work(1, &[1; 5]);
        work.commit_points.truncate(1);
        accumulator.push(work);
        let first = accumulator.cut().unwrap();
        assert_eq!((first.effects.len(), first.position), (1, at(1)));
        let second = accumulator.cut().unwrap();
        assert_eq!((second.effects.len(), second.position), (4, at(6)));
        assert_eq!(second.completes, [(6, at(6))]);
        assert!(accumulator.cut().is_none());
    }

    #[test]
    fn work_without_effects_is_completed_too() {
        let mut accumulator = Accumulator::new(100);
        accumulator.push(work(1, &[]));
        let transaction = accumulator.cut().unwrap();
        assert_eq!(transaction.completes, [(1, at(1))]);
    }

    proptest! {
        /// Holds invariant 1.2: with any commit points, at each cut every effect at or before the
        /// position is in this transaction or an earlier one. No effect is lost, and the order
        /// stays.
        #[test]
        fn the_position_never_leads(
            batches in prop::collection::vec(
                (prop::collection::vec(0..40_usize, 0..20), any::<bool>(), any::<u32>()),
                1..10,
            ),
            size in 1..60_usize,
        ) {
            let mut accumulator = Accumulator::new(size);
            let (mut seq, mut expected) = (1, Vec::new());
            for (sizes, is_suspect, kept_points) in &batches {
                let mut work = IndexWork { is_suspect: *is_suspect, ..work(seq, sizes) };
                let mut bits = (0..u32::BITS).map(|bit| kept_points >> bit & 1 == 1);
                work.commit_points.retain(|_| bits.next() == Some(true));
                for effect in &mut work.effects {
                    if seq_of(effect).is_multiple_of(2) {
                        *effect = commit(seq_of(effect), 1);
                    }
                }
                seq = work.position.seq + 1;
                expected.extend(work.effects.clone());
                accumulator.push(work);
            }
            let (mut written, mut completed) = (Vec::new(), 0);
            while let Some(transaction) = accumulator.cut() {
                let is_progress = !transaction.completes.is_empty() || transaction.is_unfinished;
                prop_assert!(is_progress, "it would never end");
                written.extend(transaction.effects);
                completed += transaction.completes.len();
                let covered = expected.iter().take_while(|effect| seq_of(effect) <= transaction.position.seq);
                prop_assert_eq!(covered.count(), written.len());
            }
            prop_assert_eq!(written, expected);
            prop_assert_eq!(completed, batches.len());
            prop_assert_eq!(accumulator.depth(), 0);
        }
    }

    fn seq_of(effect: &Effect) -> u64 {
        match effect {
            Effect::Commit(commit) => commit.chain.as_ref().map_or(0, |chain| chain.seq),
            Effect::Identity(change) => change.seq,
            other => panic!("not made here: {other:?}"),
        }
    }
}
