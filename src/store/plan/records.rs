//! Reduces the records of a batch to the rows to write: the last change of each record.
//!
//! This makes the transaction small and lets a multi-row statement name each row once. The rows are
//! sorted by key, so that neighbours in a B-tree are written one after the other.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::view::View;
use crate::atproto::syntax::Did;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{RecordChange, RecordDelete, RecordUpsert, RecordVersion};

/// A change of a record that can be applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RecordWrite<'a> {
    Delete(&'a RecordDelete),
    Upsert(&'a RecordUpsert),
}

impl<'a> RecordWrite<'a> {
    /// `None` if the change is a dead letter.
    pub(super) fn of(change: &'a RecordChange) -> Option<Self> {
        match change {
            RecordChange::DeadLetter(_) => None,
            RecordChange::Delete(delete) => Some(Self::Delete(delete)),
            RecordChange::Upsert(upsert) => Some(Self::Upsert(upsert)),
        }
    }

    /// The record's CID; `None` for a tombstone.
    fn cid(self) -> Option<String> {
        match self {
            Self::Delete(_) => None,
            Self::Upsert(upsert) => Some(upsert.cid.to_string()),
        }
    }

    pub fn version(self) -> &'a RecordVersion {
        match self {
            Self::Delete(delete) => &delete.version,
            Self::Upsert(upsert) => &upsert.version,
        }
    }
}

/// The times at which accounts were removed, by DID.
#[derive(Debug, Default)]
pub(super) struct Removals(BTreeMap<String, String>);

impl Removals {
    pub(super) fn insert(&mut self, did: &str, removed_at: String) {
        self.0.insert(did.to_owned(), removed_at);
    }

    /// Whether an event of `did` at `time` is removed with its account.
    pub(super) fn cover(&self, did: &Did, time: Timestamp) -> bool {
        let removed_at = self.0.get(did.as_str());
        removed_at.is_some_and(|removed_at| sortable(time) <= *removed_at)
    }

    fn cover_text(&self, did: &Did, time: &str) -> bool {
        let removed_at = self.0.get(did.as_str());
        removed_at.is_some_and(|removed_at| time <= removed_at.as_str())
    }
}

/// Returns the last change of each record by URI: the one of the highest rev, and for equal revs
/// the later one. Changes up to the removal of their account do not count.
///
/// The order of changes and removals does not matter as long as the revs of a repository and the
/// times of its events rise together. That is the duty of its server.
pub(super) fn last_changes<'a>(
    changes: impl Iterator<Item = RecordWrite<'a>>,
    removals: &Removals,
) -> BTreeMap<String, RecordWrite<'a>> {
    let mut last = BTreeMap::new();
    for change in changes {
        let version = change.version();
        if removals.cover(&version.did, version.time) {
            continue;
        }
        let kept = last.entry(version.uri()).or_insert(change);
        if version.rev >= kept.version().rev {
            *kept = change;
        }
    }
    last
}

/// Keeps the changes that no equal or higher rev precedes. A tombstone has a rev too, so that an
/// older create does not bring the record back. `is_snapshot`: they are of a repository that was
/// fetched as a whole, which replaces another history at the same rev.
pub(super) fn retain_newer(
    changes: &mut BTreeMap<String, RecordWrite<'_>>,
    view: &View,
    removals: &Removals,
    is_snapshot: bool,
) {
    changes.retain(|uri, change| {
        let version = change.version();
        let held = view
            .records
            .get(uri)
            .filter(|held| !removals.cover_text(&version.did, &held.time));
        held.is_none_or(|held| match version.rev.as_str().cmp(&held.rev) {
            Ordering::Greater => true,
            Ordering::Equal => is_snapshot && change.cid() != held.cid,
            Ordering::Less => false,
        })
    });
}

/// The newest commit of each repository.
pub(super) fn newest_commits<'a>(
    changes: impl Iterator<Item = RecordWrite<'a>>,
) -> BTreeMap<&'a str, &'a RecordVersion> {
    let mut newest = BTreeMap::new();
    for change in changes {
        let version = change.version();
        let kept = newest.entry(version.did.as_str()).or_insert(version);
        if version.rev > kept.rev {
            *kept = version;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use cid::Cid;

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

    fn kept_seqs(deletes: &[RecordDelete], removed_at: &[(&str, i64)]) -> Vec<u64> {
        let mut removals = Removals::default();
        for (name, time) in removed_at {
            removals.insert(did(name).as_str(), sortable(second(*time)));
        }
        last_changes(deletes.iter().map(RecordWrite::Delete), &removals)
            .into_values()
            .map(|change| change.version().seq)
            .collect()
    }

    /// Holds invariant 2.1.
    #[test]
    fn the_highest_rev_of_a_record_is_kept_at_any_place() {
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
    fn changes_before_the_removal_of_their_account_are_dropped() {
        let deletes = [
            delete("alice", "a", "a", 5, 1),
            delete("alice", "b", "b", 6, 2),
            delete("bob", "a", "a", 1, 3),
        ];
        assert_eq!(kept_seqs(&deletes, &[("alice", 5)]), [2, 3]);
    }
}
