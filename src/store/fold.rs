//! Reduces a batch to the rows that have to be written: per key only the last word.
//!
//! It makes the transaction small, lets a multi-row statement name each row once, and sorts the
//! rows by key, so that neighbours in a B-tree are written one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::datetime::sortable;
use crate::protocol::syntax::Did;
use crate::queue::effect::{
    self, AccountChange, ChainUpdate, CommitEffect, DeadLetter, Doubt, Effect, Gap, RecordDelete,
    RecordUpsert, RecordVersion,
};

/// A batch, sorted by what its effects are about.
#[derive(Debug, Default)]
pub(crate) struct Sorted<'a> {
    /// The latest status of each account.
    pub(crate) statuses: BTreeMap<&'a Did, &'a AccountChange>,
    /// Accounts that were not active at some time, whatever they are now.
    pub(crate) inactive: BTreeSet<&'a Did>,
    /// The latest deletion of each account, also where a later status has brought it back.
    pub(crate) removals: BTreeMap<&'a Did, String>,
    /// The latest handle of each account.
    pub(crate) handles: BTreeMap<&'a Did, Handle<'a>>,
    /// In the order of the batch.
    pub(crate) steps: Vec<&'a ChainUpdate>,
    /// All of them, in the order of the batch, each with the index of the step that it is part of.
    pub(crate) records: Vec<(RecordChange<'a>, Option<usize>)>,
    pub(crate) doubts: Vec<&'a Doubt>,
    pub(crate) dead_letters: Vec<&'a DeadLetter>,
    pub(crate) gaps: Vec<&'a Gap>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RecordChange<'a> {
    Delete(&'a RecordDelete),
    Upsert(&'a RecordUpsert),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handle<'a> {
    pub(crate) handle: &'a str,
    /// A sortable time, and the seq.
    pub(crate) as_of: (String, u64),
}

impl<'a> RecordChange<'a> {
    pub(crate) fn version(self) -> &'a RecordVersion {
        match self {
            Self::Delete(delete) => &delete.version,
            Self::Upsert(upsert) => &upsert.version,
        }
    }
}

impl<'a> Sorted<'a> {
    pub(crate) fn new(effects: &'a [Effect]) -> Self {
        let mut sorted = Self::default();
        for effect in effects {
            match effect {
                Effect::Account(change) => sorted.add_account(change),
                Effect::Commit(commit) => sorted.add_commit(commit),
                Effect::DeadLetter(letter) => sorted.dead_letters.push(letter),
                Effect::Doubt(doubt) => sorted.doubts.push(doubt),
                Effect::Gap(gap) => sorted.gaps.push(gap),
                Effect::Identity(change) => {
                    if let Some(handle) = &change.handle {
                        let as_of = (sortable(change.time), change.seq);
                        sorted.add_handle(&change.did, Handle { handle, as_of });
                    }
                }
            }
        }
        sorted
    }

    fn add_commit(&mut self, commit: &'a CommitEffect) {
        let step = commit.chain.as_ref().map(|chain| {
            self.steps.push(chain);
            self.steps.len() - 1
        });
        for record in &commit.records {
            match record {
                effect::RecordChange::DeadLetter(letter) => self.dead_letters.push(letter),
                effect::RecordChange::Delete(delete) => {
                    self.records.push((RecordChange::Delete(delete), step));
                }
                effect::RecordChange::Upsert(upsert) => {
                    self.records.push((RecordChange::Upsert(upsert), step));
                }
            }
        }
    }

    /// The changes that no step speaks for.
    pub(crate) fn unchained(
        &self,
        removed_at: &HashMap<String, String>,
    ) -> impl Iterator<Item = RecordChange<'a>> {
        let unchained = self.records.iter().filter(|(_, step)| step.is_none());
        unchained.map(|(change, _)| *change).filter(|change| {
            let version = change.version();
            !is_removed(&version.did, version.time, removed_at)
        })
    }

    /// The DIDs whose repositories the batch is about.
    pub(crate) fn repos(&self) -> BTreeSet<&'a Did> {
        let of_records = self.records.iter().map(|(change, _)| &change.version().did);
        let of_steps = self.steps.iter().map(|step| &step.did);
        of_records.chain(of_steps).collect()
    }

    fn add_account(&mut self, change: &'a AccountChange) {
        let as_of = |change: &AccountChange| (sortable(change.time), change.seq);
        let latest = self.statuses.entry(&change.did).or_insert(change);
        if as_of(change) > as_of(latest) {
            *latest = change;
        }
        if !change.active {
            self.inactive.insert(&change.did);
        }
        if change.is_deletion() && !change.is_hearsay {
            let time = sortable(change.time);
            let removed_at = self.removals.entry(&change.did).or_default();
            if time > *removed_at {
                *removed_at = time;
            }
        }
    }

    fn add_handle(&mut self, did: &'a Did, handle: Handle<'a>) {
        let latest = self.handles.entry(did).or_insert_with(|| handle.clone());
        if handle.as_of > latest.as_of {
            *latest = handle;
        }
    }
}

/// The last change of each record by its URI: that of the highest rev, and of an equal rev the one
/// that comes later. Changes up to the time at which their account was removed don't count.
///
/// The order in which changes and removals come doesn't matter as long as the revs of a repository
/// and the times of its events rise together, which is for its server to see to.
pub(crate) fn last_changes<'a>(
    changes: impl Iterator<Item = RecordChange<'a>>,
    removed_at: &HashMap<String, String>,
) -> BTreeMap<String, RecordChange<'a>> {
    let mut last = BTreeMap::new();
    for change in changes {
        let version = change.version();
        if is_removed(&version.did, version.time, removed_at) {
            continue;
        }
        let kept = last.entry(version.uri()).or_insert(change);
        if version.rev >= kept.version().rev {
            *kept = change;
        }
    }
    last
}

/// Whether what `did` did at `time` went with its account.
pub(crate) fn is_removed(did: &Did, time: Timestamp, removed_at: &HashMap<String, String>) -> bool {
    removed_at
        .get(did.as_str())
        .is_some_and(|removed_at| sortable(time) <= *removed_at)
}

/// The newest commit of each repository.
pub(crate) fn newest_commits<'a>(
    changes: impl Iterator<Item = RecordChange<'a>>,
) -> BTreeMap<&'a Did, &'a RecordVersion> {
    let mut newest = BTreeMap::new();
    for change in changes {
        let version = change.version();
        let kept = newest.entry(&version.did).or_insert(version);
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
    use crate::protocol::syntax::{Nsid, RecordKey, Tid};
    use crate::queue::effect::IdentityChange;

    fn did(name: &str) -> Did {
        Did::parse(&format!("did:plc:{name}")).unwrap()
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn delete(name: &str, rkey: &str, rev: &str, time: i64, seq: u64) -> Effect {
        Effect::records(vec![effect::RecordChange::Delete(RecordDelete {
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
        })])
    }

    fn account(status: Option<&str>, time: i64, seq: u64) -> Effect {
        Effect::Account(AccountChange {
            did: did("alice"),
            active: status.is_none(),
            status: status.map(str::to_owned),
            is_hearsay: false,
            seq,
            time: second(time),
        })
    }

    fn kept_seqs(effects: &[Effect], removed_at: &[(&str, i64)]) -> Vec<u64> {
        let removed_at = removed_at
            .iter()
            .map(|(name, time)| (did(name).to_string(), sortable(second(*time))))
            .collect();
        let sorted = Sorted::new(effects);
        let changes = sorted.records.iter().map(|(change, _)| *change);
        last_changes(changes, &removed_at)
            .into_values()
            .map(|change| change.version().seq)
            .collect()
    }

    #[test]
    fn the_highest_rev_of_a_record_is_kept_wherever_it_stands() {
        let older = delete("alice", "a", "a", 1, 1);
        let newer = delete("alice", "a", "b", 2, 2);
        assert_eq!(kept_seqs(&[older.clone(), newer.clone()], &[]), [2]);
        assert_eq!(kept_seqs(&[newer, older], &[]), [2]);
    }

    #[test]
    fn of_an_equal_rev_the_later_effect_is_kept() {
        let effects = [
            delete("alice", "a", "a", 1, 1),
            delete("alice", "a", "a", 1, 2),
        ];
        assert_eq!(kept_seqs(&effects, &[]), [2]);
    }

    #[test]
    fn rows_are_sorted_by_key() {
        let effects = [
            delete("bob", "a", "a", 1, 1),
            delete("alice", "b", "a", 1, 2),
            delete("alice", "a", "a", 1, 3),
        ];
        assert_eq!(kept_seqs(&effects, &[]), [3, 2, 1]);
    }

    #[test]
    fn what_comes_from_before_an_accounts_removal_is_dropped() {
        let effects = [
            delete("alice", "a", "a", 5, 1),
            delete("alice", "b", "b", 6, 2),
            delete("bob", "a", "a", 1, 3),
        ];
        assert_eq!(kept_seqs(&effects, &[("alice", 5)]), [2, 3]);
    }

    #[test]
    fn a_status_that_comes_later_in_time_wins_and_a_deletion_is_remembered() {
        let effects = [account(None, 9, 9), account(Some("deleted"), 3, 3)];
        let sorted = Sorted::new(&effects);
        assert!(sorted.statuses[&did("alice")].active);
        assert_eq!(sorted.removals[&did("alice")], sortable(second(3)));
    }

    #[test]
    fn of_statuses_at_one_time_the_higher_seq_wins() {
        let effects = [account(None, 9, 12), account(Some("suspended"), 9, 11)];
        assert_eq!(Sorted::new(&effects).statuses[&did("alice")].seq, 12);
    }

    #[test]
    fn an_identity_without_a_handle_says_nothing() {
        let identity = |handle: Option<&str>, seq| {
            Effect::Identity(IdentityChange {
                did: did("alice"),
                handle: handle.map(str::to_owned),
                seq,
                time: second(seq as i64),
            })
        };
        let effects = [
            identity(Some("new.example"), 2),
            identity(None, 3),
            identity(Some("old.example"), 1),
        ];
        let sorted = Sorted::new(&effects);
        assert_eq!(sorted.handles[&did("alice")].handle, "new.example");
    }
}
