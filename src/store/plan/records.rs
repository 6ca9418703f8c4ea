//! Reduces the records of a batch to the rows to write: the last change of each record.
//!
//! This makes the transaction small and lets a multi-row statement name each row once. The rows are
//! sorted by key, so that neighbours in a B-tree are written one after the other.

use std::collections::{BTreeMap, BTreeSet};

use cid::Cid;

use super::order::{AsOf, Event, Order, Stamp};
use super::view::HeldRecord;
use crate::atproto::syntax::Did;
use crate::atproto::verify::Level;
use crate::model::{Judgement, SourceId};
use crate::store::plan::effect::{
    RecordChange, RecordDelete, RecordRefusal, RecordUpsert, RecordVersion,
};

/// A change of a record that can be applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RecordWrite<'a> {
    Delete(&'a RecordDelete),
    Refuse(&'a RecordRefusal),
    Upsert(&'a RecordUpsert),
}

/// A row of `records` that is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordRow<'a> {
    pub write: RecordWrite<'a>,
    /// How much of the commit was verified, now or when the same value was written before.
    pub verified: Option<Level>,
    /// When the row was indexed; `None` means now. A record that is judged again keeps its time: it was
    /// not received again.
    pub indexed_at: Option<&'a str>,
}

impl<'a> RecordRow<'a> {
    fn new(write: RecordWrite<'a>, verified: Option<Level>) -> Self {
        Self {
            write,
            verified,
            indexed_at: None,
        }
    }
}

impl<'a> RecordWrite<'a> {
    /// `None` if the change is a dead letter.
    pub(super) fn of(change: &'a RecordChange) -> Option<Self> {
        match change {
            RecordChange::DeadLetter(_) => None,
            RecordChange::Delete(delete) => Some(Self::Delete(delete)),
            RecordChange::Refuse(refusal) => Some(Self::Refuse(refusal)),
            RecordChange::Upsert(upsert) => Some(Self::Upsert(upsert)),
        }
    }

    pub fn version(self) -> &'a RecordVersion {
        match self {
            Self::Delete(delete) => &delete.version,
            Self::Refuse(refusal) => &refusal.version,
            Self::Upsert(upsert) => &upsert.version,
        }
    }

    /// The value that is kept or refused, and the rules by which that was decided; `None` if the
    /// record is deleted.
    pub fn judged(self) -> Option<(Cid, Judgement)> {
        match self {
            Self::Delete(_) => None,
            Self::Refuse(refusal) => Some((refusal.cid, refusal.judgement)),
            Self::Upsert(upsert) => Some((upsert.cid, upsert.judgement)),
        }
    }
}

/// How changes of records compare with each other and with the rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard<'a> {
    pub(super) order: &'a Order<'a>,
    pub(super) source: &'a SourceId,
    /// The changes are those of a repository that was fetched as a whole. At its rev it is right,
    /// whatever the rows are.
    pub(super) is_snapshot: bool,
}

impl Guard<'_> {
    /// The row that `change` writes in place of `held`; `None` if the row stays as it is.
    fn row<'a>(self, change: RecordWrite<'a>, held: Option<&HeldRecord>) -> Option<RecordRow<'a>> {
        let version = change.version();
        let verified = version.verified;
        let write = change;
        let Some(held) = held else {
            return Some(RecordRow::new(write, verified));
        };
        let known = Stamp {
            rev: &held.rev,
            source: Some(&held.source),
            seq: held.seq,
            time: held.time.parse().ok(),
            is_proven: held.verified.is_some(),
        };
        let is_newer = || self.order.is_newer(Stamp::of(version, self.source), known);
        if version.rev.as_str() != held.rev {
            return is_newer().then(|| RecordRow::new(write, verified));
        }
        let judged = change.judged();
        if judged.map(|(cid, _)| cid.to_string()) == held.cid {
            // The same value at the same rev. What was proven of it stays proven.
            let is_judged_anew = judged.map(|(_, judgement)| judgement) != held.judgement;
            let is_proven_better = verified > held.verified;
            let verified = verified.max(held.verified);
            return (is_judged_anew || is_proven_better).then(|| RecordRow::new(write, verified));
        }
        (self.is_snapshot || is_newer()).then(|| RecordRow::new(write, verified))
    }
}

/// Which changes are removed with their account.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// The deletions in the tables, by DID.
    stored: BTreeMap<String, AsOf>,
    /// The deletions in the batch, by DID.
    of_batch: BTreeMap<String, Event>,
    /// Accounts that are deleted, so that nothing of a fetched repository is written.
    deleted: BTreeSet<String>,
}

impl Removals {
    pub(super) fn insert_stored(&mut self, did: &str, removed: AsOf) {
        self.stored.insert(did.to_owned(), removed);
    }

    pub(super) fn insert_of_batch(&mut self, did: &str, event: Event) {
        self.of_batch.insert(did.to_owned(), event);
    }

    pub(super) fn insert_deleted(&mut self, did: &str) {
        self.deleted.insert(did.to_owned());
    }

    /// Whether an event of `did` is removed with its account.
    pub(super) fn cover(&self, did: &Did, event: Event, order: &Order<'_>) -> bool {
        let did = did.as_str();
        let of_batch = self.of_batch.get(did);
        let stored = self.stored.get(did);
        of_batch.is_some_and(|removed| !order.is_later(*removed, event))
            || stored.is_some_and(|removed| !order.is_after(event, removed))
            || self.deleted.contains(did)
    }
}

/// Returns the last change of each record by URI; of equal ones the later one. Changes up to the
/// removal of their account do not count.
pub(super) fn last_changes<'a>(
    changes: impl Iterator<Item = RecordWrite<'a>>,
    removals: &Removals,
    guard: Guard<'_>,
) -> BTreeMap<String, RecordWrite<'a>> {
    let mut last = BTreeMap::new();
    for change in changes {
        let version = change.version();
        if removals.cover(&version.did, Event::of(version), guard.order) {
            continue;
        }
        let kept = last.entry(version.uri()).or_insert(change);
        let stamp = |write: RecordWrite<'a>| Stamp::of(write.version(), guard.source);
        if guard.order.is_at_least_as_new(stamp(*kept), stamp(change)) {
            *kept = change;
        }
    }
    last
}

/// The rows that `changes` write. A tombstone has a rev too, so that an older create does not bring
/// the record back.
pub(super) fn rows<'a, 'b>(
    changes: BTreeMap<String, RecordWrite<'a>>,
    guard: Guard<'_>,
    held: impl Fn(&str, &Did) -> Option<&'b HeldRecord>,
) -> BTreeMap<String, RecordRow<'a>> {
    let rows = changes.into_iter().filter_map(|(uri, change)| {
        let held = held(&uri, &change.version().did);
        let row = guard.row(change, held)?;
        Some((uri, row))
    });
    rows.collect()
}

/// The URIs of the changes that are as new as the tables, or newer. Also a change that writes nothing
/// shows that its record is kept again.
pub(super) fn refreshed<'b>(
    changes: &BTreeMap<String, RecordWrite<'_>>,
    guard: Guard<'_>,
    held: impl Fn(&str, &Did) -> Option<&'b HeldRecord>,
) -> BTreeSet<String> {
    let is_as_new = |(uri, change): &(&String, &RecordWrite<'_>)| {
        let version = change.version();
        let held = held(uri, &version.did);
        held.is_some_and(|held| held.rev == version.rev.as_str())
            || guard.row(**change, held).is_some()
    };
    let refreshed = changes.iter().filter(is_as_new);
    refreshed.map(|(uri, _)| uri.clone()).collect()
}

/// The newest commit of each repository.
pub(super) fn newest_commits<'a>(
    changes: impl Iterator<Item = RecordWrite<'a>>,
    guard: Guard<'_>,
) -> BTreeMap<&'a str, &'a RecordVersion> {
    let mut newest = BTreeMap::new();
    for change in changes {
        let version = change.version();
        let kept = newest.entry(version.did.as_str()).or_insert(version);
        let stamp = |version: &'a RecordVersion| Stamp::of(version, guard.source);
        if guard.order.is_at_least_as_new(stamp(kept), stamp(version)) {
            *kept = version;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::order::Moment;
    use super::*;
    use crate::atproto::syntax::{Nsid, RecordKey, Tid};

    fn did(name: &str) -> Did {
        Did::parse(&format!("did:plc:{name}")).unwrap()
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn delete(name: &str, rkey: &str, rev: &str, time: i64, seq: u64) -> RecordDelete {
        RecordDelete {
            version: RecordVersion {
                did: did(name),
                collection: Nsid::parse("com.huddle.booking").unwrap(),
                rkey: RecordKey::parse(rkey).unwrap(),
                rev: Tid::parse(&format!("3k2222222222{rev}")).unwrap(),
                seq,
                time: second(time),
                data: Cid::default(),
                verified: None,
            },
        }
    }

    fn kept_seqs(deletes: &[RecordDelete], removed: &[(&str, u64)]) -> Vec<u64> {
        let mut removals = Removals::default();
        for (name, seq) in removed {
            let (seq, time) = (*seq, second(0));
            removals.insert_of_batch(did(name).as_str(), Event { seq, time });
        }
        let order = Order {
            source: None,
            cursor: None,
            through: None,
            is_restarted: false,
            moment: Moment::at(second(1_000)),
        };
        let guard = Guard {
            order: &order,
            source: &SourceId::new("wss://relay.example/"),
            is_snapshot: false,
        };
        last_changes(deletes.iter().map(RecordWrite::Delete), &removals, guard)
            .into_values()
            .map(|change| change.version().seq)
            .collect()
    }

    /// Holds invariant 2.1.
    #[test]
    fn the_latest_change_of_a_record_is_kept_at_any_place() {
        let older = delete("alice", "a", "a", 1, 1);
        let newer = delete("alice", "a", "b", 2, 2);
        assert_eq!(kept_seqs(&[older.clone(), newer.clone()], &[]), [2]);
        assert_eq!(kept_seqs(&[newer, older], &[]), [2]);
    }

    #[test]
    fn of_equal_revs_the_later_change_is_kept() {
        let deletes = [
            delete("alice", "a", "a", 1, 1),
            delete("alice", "a", "a", 1, 2),
        ];
        assert_eq!(kept_seqs(&deletes, &[]), [2]);
    }

    #[test]
    fn rows_are_sorted_by_key() {
        let deletes = [
            delete("bob", "a", "a", 1, 1),
            delete("alice", "b", "a", 1, 2),
            delete("alice", "a", "a", 1, 3),
        ];
        assert_eq!(kept_seqs(&deletes, &[]), [3, 2, 1]);
    }

    #[test]
    fn changes_before_the_removal_of_their_account_are_dropped_whatever_their_times() {
        let deletes = [
            delete("alice", "a", "a", 9, 1),
            delete("alice", "b", "b", 1, 3),
            delete("bob", "a", "a", 1, 1),
        ];
        assert_eq!(kept_seqs(&deletes, &[("alice", 2)]), [3, 1]);
    }
}
