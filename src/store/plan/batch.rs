//! What a list of effects does to the tables.

use std::collections::HashSet;

use super::account::AccountChanges;
use super::chain::{Decision, Known, decide, is_very_first};
use super::change_set::ChangeSet;
use super::dead_letters::fingerprint;
use super::draft::Draft;
use super::gaps::{Gaps, is_amid_the_stream};
use super::parked::{ParkedNeeds, Parking};
use super::records::{RecordWrite, Removals, last_changes, newest_commits, retain_newer};
use super::repository::RepoRow;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{ChainUpdate, CommitEffect, Effect, Predecessor, Recheck};

/// Where effects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Stream,
    /// A frame that was parked.
    Replay,
    /// A repository that was fetched as a whole. Where it stands is told when all of it is written.
    Snapshot,
}

/// A list of effects that is being planned.
pub(super) struct Batch<'a> {
    pub(super) source: &'a SourceId,
    pub(super) effects: &'a [Effect],
    pub(super) origin: Origin,
    /// When the host of an account that is gone, and commits, is asked again.
    pub(super) ask_at: String,
}

/// What became of the commits of a batch.
#[derive(Debug, Default)]
struct Decided<'a> {
    /// Chain updates that are not known already.
    news: Vec<&'a ChainUpdate>,
    /// Chain updates that have to be parked.
    parked: Vec<&'a ChainUpdate>,
    /// The records that are to be written.
    admitted: Vec<RecordWrite<'a>>,
    /// Those of them whose chain is not followed.
    unverified: Vec<RecordWrite<'a>>,
    /// All records, admitted or not.
    records: u64,
}

impl<'a> Batch<'a> {
    /// Accounts come first, so that a deletion within the batch removes what the batch itself brings
    /// from before it, wherever in the batch it stands.
    pub(super) fn plan(
        &self,
        draft: &mut Draft<'a>,
        changes: &mut ChangeSet<'a>,
    ) -> Result<(), ParkedNeeds> {
        changes.source = Some(self.source);
        let has_returned = self.change_accounts(draft);
        let removals = self.removals(draft);
        let has_new_gap = self.open_gaps(draft, changes);
        // Before the chain updates: a chain that begins behind what is rechecked tells nothing of that.
        let is_rechecked = self.recheck(draft);
        let is_behind_gap = draft.view.is_behind_gap || has_new_gap;
        let decided = self.decide(draft, &removals, is_behind_gap);
        self.write_records(draft, changes, &decided, &removals);
        if self.origin != Origin::Snapshot {
            self.note_unverified(draft, &decided, &removals);
        }
        if self.origin != Origin::Replay {
            park(draft, changes, &decided.parked)?;
        }
        self.note_commits_of_the_gone(draft, &decided.news);
        self.add_dead_letters(draft, changes);

        let written = &mut changes.written;
        written.records = changes.records.len() as u64;
        written.stale = decided.records - written.records;
        written.dead_letters = changes.dead_letters.len() as u64;
        written.waiting = decided.parked.len() as u64;
        written.leaves_work = has_returned || is_rechecked || written.waiting > 0;
        Ok(())
    }

    /// Returns whether a repository is to be fetched because its account has come back.
    fn change_accounts(&self, draft: &mut Draft<'a>) -> bool {
        let accounts = AccountChanges::of(self.effects);
        let mut has_returned = false;
        for (did, statuses) in &accounts.statuses {
            let is_back = statuses.latest.active && statuses.latest.is_unconfirmed;
            let was_gone = statuses.was_inactive
                || draft.account(did).is_some_and(|account| !account.is_active);
            if is_back
                && was_gone
                && let Some(repo) = draft.repo_mut(did)
            {
                repo.return_of_account();
                has_returned = true;
            }
        }
        for (did, statuses) in &accounts.statuses {
            let is_tracked = draft.repo(did).is_some();
            let account = draft.account_mut(did);
            account.take_status(statuses.latest, is_tracked);
        }
        for (did, (handle, as_of)) in &accounts.handles {
            draft.account_mut(did).take_handle(handle, as_of);
        }
        for (did, removed_at) in &accounts.removals {
            draft.remove(did, removed_at);
        }
        has_returned
    }

    /// When the accounts were removed that the batch has commits of.
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

    /// Returns whether something was missed amid what was followed.
    fn open_gaps(&self, draft: &Draft<'a>, changes: &mut ChangeSet<'a>) -> bool {
        let mut gaps = Gaps::new(draft.view.gaps.clone());
        let mut is_amid = false;
        for effect in self.effects {
            if let Effect::Gap(gap) = effect {
                gaps.open(gap);
                is_amid |= is_amid_the_stream(gap);
            }
        }
        changes.gaps = gaps.into_changed();
        is_amid
    }

    /// Has repositories compared with what their hosts have, those that are tracked; and fetched, those
    /// that are not and from which something is wanted. Returns whether there are any.
    fn recheck(&self, draft: &mut Draft<'a>) -> bool {
        let mut is_any = false;
        for doubt in self.doubts() {
            if let Some(repo) = draft.repo_mut(doubt.did.as_str()) {
                is_any |= repo.recheck();
            }
        }
        for doubt in self.doubts().filter(|doubt| doubt.is_wanted) {
            let did = doubt.did.as_str();
            match draft.repo_mut(did) {
                Some(repo) => is_any |= repo.fetch_instead_of_recheck(),
                None => {
                    draft.set_repo(did, Some(RepoRow::to_be_fetched("refused")));
                    is_any = true;
                }
            }
        }
        is_any
    }

    /// Decides on the commits of the batch, one after the other.
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
            // Of a repository that is not tracked, only what is kept is of interest.
            let is_foreign = known.repo.is_none()
                && records().next().is_none()
                && update.predecessor != Predecessor::KeyUnavailable;
            let decision = match is_foreign || removals.cover(&update.did, update.time) {
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
                    draft.tracked_mut(did).break_chain(broken.as_str());
                    decided.parked.push(update);
                }
            }
            decided.news.push(update);
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

    /// Notes the newest commit of each repository whose chain is not followed.
    fn note_unverified(&self, draft: &mut Draft<'a>, decided: &Decided<'a>, removals: &Removals) {
        let newest = decided.unverified.iter().copied().filter(|record| {
            let version = record.version();
            !removals.cover(&version.did, version.time)
        });
        for (did, version) in newest_commits(newest) {
            draft.tracked_mut(did).note_unverified(version, self.source);
        }
    }

    /// The hosts are asked again of accounts that are said to be gone and have committed since.
    fn note_commits_of_the_gone(&self, draft: &mut Draft<'a>, news: &[&'a ChainUpdate]) {
        for update in news {
            let did = update.did.as_str();
            if draft.account(did).is_some_and(|account| !account.is_active) {
                let account = draft.account_mut(did);
                account.note_commit(&sortable(update.time), &self.ask_at);
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

    fn doubts(&self) -> impl Iterator<Item = &'a Recheck> + use<'a> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Recheck(doubt) => Some(doubt),
            _ => None,
        })
    }
}

/// Parks `updates`. Of a repository of which too much is parked, all is dropped.
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
    changes.dropped.extend(parking.overflowing);
    Ok(())
}
