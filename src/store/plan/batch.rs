//! Plans what a list of effects changes in the tables.

use std::collections::HashSet;

use super::account::AccountChanges;
use super::chain::{Decision, Known, decide, is_very_first};
use super::change_set::ChangeSet;
use super::dead_letters::fingerprint;
use super::draft::Draft;
use super::gaps::{Gaps, is_within_the_stream};
use super::parked::{ParkedNeeds, Parking};
use super::records::{RecordWrite, Removals, last_changes, newest_commits, retain_newer};
use super::repository::RepoRow;
use super::resync_cause::ResyncCause;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{ChainUpdate, CommitEffect, Effect, Predecessor, Recheck};

/// Where effects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Stream,
    /// The replay of a parked commit.
    Replay,
    /// A repository that was fetched as a whole. Its head moves only after all of it is written.
    Snapshot,
}

/// A list of effects that is being planned.
pub(super) struct Batch<'a> {
    pub(super) source: &'a SourceId,
    pub(super) effects: &'a [Effect],
    pub(super) origin: Origin,
    /// When the host of an inactive account that commits is asked again.
    pub(super) ask_at: String,
    /// When a handle that is no longer known is taken from its document.
    pub(super) handle_due_at: String,
}

/// The decisions on the commits of a batch.
#[derive(Debug, Default)]
struct Decided<'a> {
    /// Chain updates that are not stale.
    fresh: Vec<&'a ChainUpdate>,
    /// Chain updates that have to be parked.
    parked: Vec<&'a ChainUpdate>,
    /// The records to write.
    admitted: Vec<RecordWrite<'a>>,
    /// Those of `admitted` whose chain is not checked.
    unverified: Vec<RecordWrite<'a>>,
    /// All records, admitted or not.
    records: u64,
}

impl<'a> Batch<'a> {
    /// Accounts come first. So a deletion in the batch also removes earlier records of the same
    /// batch, at any place in it.
    pub(super) fn plan(
        &self,
        draft: &mut Draft<'a>,
        changes: &mut ChangeSet<'a>,
    ) -> Result<(), ParkedNeeds> {
        changes.source = Some(self.source);
        let has_to_be_fetched = self.change_accounts(draft);
        let removals = self.removals(draft);
        let has_new_gap = self.open_gaps(draft, changes);
        // Before the chain updates, because a chain that begins after a refused commit does not
        // show what that commit contained.
        let is_rechecked = self.recheck(draft);
        let is_behind_gap = draft.view.is_behind_gap || has_new_gap;
        let decided = self.decide(draft, &removals, is_behind_gap);
        self.write_records(draft, changes, &decided, &removals);
        if self.origin != Origin::Snapshot {
            self.move_unverified_heads(draft, &decided, &removals);
        }
        if self.origin != Origin::Replay {
            park(draft, changes, &decided.parked)?;
        }
        self.note_commits(draft, &decided);
        self.add_dead_letters(draft, changes);

        let written = &mut changes.written;
        written.records = changes.records.len() as u64;
        written.stale = decided.records - written.records;
        written.dead_letters = changes.dead_letters.len() as u64;
        written.parked = decided.parked.len() as u64;
        written.leaves_work = has_to_be_fetched || is_rechecked || written.parked > 0;
        Ok(())
    }

    /// Applies the statuses and handles. Returns whether a repository has to be fetched because its
    /// account is active again.
    fn change_accounts(&self, draft: &mut Draft<'a>) -> bool {
        let accounts = AccountChanges::of(self.effects);
        let mut has_to_be_fetched = false;
        for (did, statuses) in &accounts.statuses {
            let was_inactive_before = statuses.was_inactive()
                || draft.account(did).is_some_and(|account| !account.is_active);
            if statuses.is_active_now()
                && was_inactive_before
                && let Some(repo) = draft.repo_mut(did)
            {
                repo.resume_account();
                has_to_be_fetched = true;
            }
        }
        for (did, statuses) in &accounts.statuses {
            let is_tracked = draft.repo(did).is_some();
            let account = draft.account_mut(did);
            for status in &statuses.0 {
                account.take_status(status, is_tracked);
            }
        }
        for (did, (handle, as_of)) in &accounts.handles {
            draft.account_mut(did).take_handle(handle, as_of);
        }
        for (did, as_of) in &accounts.unknown_handles {
            // Of an account that is not kept, there is nothing to forget and nothing to look up.
            if draft.account(did).is_some() || draft.repo(did).is_some() {
                let account = draft.account_mut(did);
                account.doubt_handle(as_of, &self.handle_due_at);
            }
        }
        for (did, removed_at) in &accounts.removals {
            draft.remove(did, removed_at);
        }
        has_to_be_fetched
    }

    /// The times at which the accounts of the batch's commits were removed.
    fn removals(&self, draft: &Draft<'a>) -> Removals {
        let mut removals = Removals::default();
        for commit in self.commits() {
            let of_chain = commit.chain.as_ref().map(|chain| &chain.did);
            let of_records = commit.records.iter().filter_map(|record| record.version());
            let dids = of_records.map(|version| &version.did).chain(of_chain);
            for did in dids {
                let account = draft.account(did.as_str());
                if let Some(removed_at) = account.and_then(|account| account.removed_at.clone()) {
                    removals.insert(did.as_str(), removed_at);
                }
            }
        }
        removals
    }

    /// Records new gaps. Returns whether one of them lies within the followed stream.
    fn open_gaps(&self, draft: &Draft<'a>, changes: &mut ChangeSet<'a>) -> bool {
        let mut gaps = Gaps::new(draft.view.gaps.clone());
        let mut is_within_stream = false;
        for effect in self.effects {
            if let Effect::Gap(gap) = effect {
                gaps.open(gap);
                is_within_stream |= is_within_the_stream(gap);
            }
        }
        changes.gaps = gaps.into_changed();
        is_within_stream
    }

    /// Marks repositories for a recheck. A tracked one is compared with its host. One that is not
    /// tracked is fetched if its records are wanted. Returns whether there is any work.
    fn recheck(&self, draft: &mut Draft<'a>) -> bool {
        let mut is_any = false;
        for recheck in self.rechecks() {
            if let Some(repo) = draft.repo_mut(recheck.did.as_str()) {
                is_any |= repo.recheck();
            }
        }
        for recheck in self.rechecks().filter(|recheck| recheck.is_wanted) {
            let did = recheck.did.as_str();
            match draft.repo_mut(did) {
                Some(repo) => is_any |= repo.fetch_instead_of_recheck(),
                None => {
                    draft.set_repo(did, Some(RepoRow::to_be_fetched(ResyncCause::Refused)));
                    is_any = true;
                }
            }
        }
        is_any
    }

    /// Decides on the commits of the batch in their order.
    fn decide(
        &self,
        draft: &mut Draft<'a>,
        removals: &Removals,
        is_behind_gap: bool,
    ) -> Decided<'a> {
        let mut decided = Decided::default();
        for commit in self.commits() {
            let records = || commit.records.iter().filter_map(RecordWrite::of);
            decided.records += records().count() as u64;
            let Some(update) = &commit.chain else {
                decided.admitted.extend(records());
                decided.unverified.extend(records());
                continue;
            };
            let did = update.did.as_str();
            let known = Known {
                repo: draft.repo(did),
                is_replay: self.origin == Origin::Replay,
                is_behind_gap,
            };
            // If a repository is not tracked, only commits with records to keep matter.
            let is_irrelevant = known.repo.is_none()
                && records().next().is_none()
                && update.predecessor != Predecessor::KeyUnavailable;
            let decision = match is_irrelevant || removals.cover(&update.did, update.time) {
                true => Decision::Stale,
                false => decide(known, update),
            };
            match decision {
                Decision::Stale => continue,
                Decision::Follows => {
                    let is_whole = is_very_first(update);
                    draft.tracked_mut(did).follow(update, is_whole, self.source);
                    decided.admitted.extend(records());
                }
                Decision::Parks => {
                    draft.tracked_mut(did).park();
                    decided.parked.push(update);
                }
                Decision::Breaks(broken) => {
                    draft.tracked_mut(did).break_chain(broken);
                    decided.parked.push(update);
                }
            }
            decided.fresh.push(update);
        }
        decided
    }

    fn write_records(
        &self,
        draft: &Draft<'a>,
        changes: &mut ChangeSet<'a>,
        decided: &Decided<'a>,
        removals: &Removals,
    ) {
        let mut records = last_changes(decided.admitted.iter().copied(), removals);
        retain_newer(&mut records, draft.view, removals);
        changes.records = records;
    }

    /// Moves the head of each repository whose chain is not checked to its newest commit.
    fn move_unverified_heads(
        &self,
        draft: &mut Draft<'a>,
        decided: &Decided<'a>,
        removals: &Removals,
    ) {
        let newest = decided.unverified.iter().copied().filter(|record| {
            let version = record.version();
            !removals.cover(&version.did, version.time)
        });
        for (did, version) in newest_commits(newest) {
            draft
                .tracked_mut(did)
                .move_unverified_head(version, self.source);
        }
    }

    /// Lets accounts that are inactive or suspected react to their commits.
    fn note_commits(&self, draft: &mut Draft<'a>, decided: &Decided<'a>) {
        // A commit that was parked, or belongs to a fetched repository, may be older than what is
        // known of its account.
        let is_new = self.origin == Origin::Stream;
        let chained = decided.fresh.iter().map(|update| {
            let is_verified = update.predecessor != Predecessor::KeyUnavailable;
            (&update.did, update.time, is_verified && is_new)
        });
        let unchained = decided.unverified.iter().filter_map(|record| {
            let version = record.version();
            let is_verified = version.verified.is_some() && is_new;
            is_verified.then_some((&version.did, version.time, true))
        });
        for (did, time, is_verified) in chained.chain(unchained) {
            let did = did.as_str();
            if draft.account(did).is_some() {
                let account = draft.account_mut(did);
                account.note_commit(&sortable(time), is_verified, &self.ask_at);
            }
        }
    }

    fn add_dead_letters(&self, draft: &Draft<'a>, changes: &mut ChangeSet<'a>) {
        let mut known = HashSet::new();
        for letter in self.effects.iter().flat_map(Effect::dead_letters) {
            let fingerprint = fingerprint(self.source, letter);
            if !draft.view.dead_letters.contains(&fingerprint) && known.insert(fingerprint) {
                changes.dead_letters.push((fingerprint, letter));
            }
        }
    }

    fn commits(&self) -> impl Iterator<Item = &'a CommitEffect> + use<'a> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Commit(commit) => Some(commit.as_ref()),
            _ => None,
        })
    }

    fn rechecks(&self) -> impl Iterator<Item = &'a Recheck> + use<'a> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Recheck(recheck) => Some(recheck),
            _ => None,
        })
    }
}

/// Parks `updates`. If a repository exceeds its limit, all of its parked commits are dropped.
fn park<'a>(
    draft: &mut Draft<'a>,
    changes: &mut ChangeSet<'a>,
    updates: &[&'a ChainUpdate],
) -> Result<(), ParkedNeeds> {
    if updates.is_empty() {
        return Ok(());
    }
    let Some(parked) = &draft.view.parked else {
        let removed = draft.removals.keys().copied();
        return Err(ParkedNeeds::of(updates, removed));
    };
    let parking = Parking::of(updates, parked, |did| draft.removals.contains_key(did));
    for did in &parking.overflowing {
        draft.tracked_mut(did).overflow();
    }
    changes.parked = parking.added;
    changes.unparked_repos.extend(parking.overflowing);
    Ok(())
}
