//! The rows of accounts and repositories as a plan changes them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::account::AccountRow;
use super::change_set::{ChangeSet, Removal};
use super::order::{Event, Order};
use super::repository::{REST, RepoRow};
use super::view::{HeldRecord, View};
use crate::store::datetime::sortable;

/// A view of the tables, overlaid with the changes so far.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) view: &'a View,
    accounts: BTreeMap<&'a str, AccountRow>,
    repos: BTreeMap<&'a str, Option<RepoRow>>,
    /// Accounts that are removed.
    pub(super) removals: BTreeMap<&'a str, Removal>,
    /// When the jobs of repositories that rest from now on are due again.
    rests_until: String,
}

impl<'a> Draft<'a> {
    pub(super) fn new(view: &'a View, now: Timestamp) -> Self {
        let rests_until = now.saturating_add(REST).unwrap_or(Timestamp::MAX);
        Self {
            rests_until: sortable(rests_until),
            view,
            accounts: BTreeMap::new(),
            repos: BTreeMap::new(),
            removals: BTreeMap::new(),
        }
    }

    /// `None` if there is no row of the account.
    pub(super) fn account(&self, did: &str) -> Option<&AccountRow> {
        self.accounts
            .get(did)
            .or_else(|| self.view.accounts.get(did))
    }

    /// The account's row, for a change. It is created if there is none.
    pub(super) fn account_mut(&mut self, did: &'a str) -> &mut AccountRow {
        let known = self.view.accounts.get(did);
        self.accounts
            .entry(did)
            .or_insert_with(|| known.cloned().unwrap_or_default())
    }

    /// `None` if the repository is not tracked.
    pub(super) fn repo(&self, did: &str) -> Option<&RepoRow> {
        match self.repos.get(did) {
            Some(changed) => changed.as_ref(),
            None => self.view.repos.get(did),
        }
    }

    /// The repository's row, for a change; `None` if it is not tracked.
    pub(super) fn repo_mut(&mut self, did: &'a str) -> Option<&mut RepoRow> {
        let known = self.view.repos.get(did);
        self.repos
            .entry(did)
            .or_insert_with(|| known.cloned())
            .as_mut()
    }

    /// The repository's row, for a change. It is tracked from now on.
    pub(super) fn tracked_mut(&mut self, did: &'a str) -> &mut RepoRow {
        let known = self.view.repos.get(did);
        self.repos
            .entry(did)
            .or_insert_with(|| known.cloned())
            .get_or_insert_with(RepoRow::unknown)
    }

    pub(super) fn set_repo(&mut self, did: &'a str, repo: Option<RepoRow>) {
        self.repos.insert(did, repo);
    }

    /// Removes what was received of the account before its deletion by `event`, unless that or a
    /// later deletion is known. Returns whether the event removes something.
    pub(super) fn remove(&mut self, did: &'a str, event: Event, order: &Order<'_>) -> bool {
        let removed = order.as_of(event);
        let head_time = self.repo(did).and_then(|repo| repo.time.clone());
        let account = self.account_mut(did);
        let is_known = account.removed.as_ref();
        let is_known = is_known.is_some_and(|known| !order.is_after(event, known));
        if is_known || account.repeats_removal(&removed.time, head_time.as_deref()) {
            return false;
        }
        account.removed = Some(removed.clone());
        if let Some(repo) = self.repo(did).cloned() {
            let survives = repo.time.as_deref().is_some_and(|time| {
                order.survives((repo.source.as_deref(), repo.seq, time), &removed)
            });
            self.set_repo(did, repo.after_removal(survives, &self.rests_until));
        }
        self.removals.insert(did, Removal::BeforeEvent);
        true
    }

    /// Whether the transaction removes the row `held` with its account.
    pub(super) fn removes(&self, did: &str, held: &HeldRecord, order: &Order<'_>) -> bool {
        let removed = self
            .account(did)
            .and_then(|account| account.removed.as_ref());
        match (self.removals.get(did), removed) {
            (None, _) => false,
            (Some(Removal::Everything), _) => true,
            (Some(Removal::BeforeEvent), removed) => removed.is_some_and(|removed| {
                let row = (
                    Some(held.source.as_str()),
                    Some(held.seq),
                    held.time.as_str(),
                );
                !order.survives(row, removed)
            }),
        }
    }

    /// Removes all that is stored of the account, because its host confirmed its deletion.
    pub(super) fn remove_everything(&mut self, did: &'a str) {
        let last_known = self.repo(did).and_then(RepoRow::as_of);
        let account = self.account_mut(did);
        let events = account.as_of.clone().into_iter().chain(last_known);
        account.removed = events.max_by(|one, other| one.time.cmp(&other.time));
        if let Some(repo) = self.repo(did).cloned() {
            self.set_repo(did, repo.after_removal(false, &self.rests_until));
        }
        self.removals.insert(did, Removal::Everything);
    }

    /// The accounts that have a row, are not in the change feed, and of which `changes` writes a record.
    pub(super) fn entering(&self, changes: &ChangeSet<'a>) -> BTreeSet<&'a str> {
        let written = changes.records.values();
        let dids = written.map(|record| record.write.version().did.as_str());
        let is_outside = |did: &&str| self.account(did).is_some_and(|account| !account.is_in_feed);
        dids.filter(is_outside).collect()
    }

    /// Moves the rows that differ from the view into `changes`.
    pub(super) fn conclude(self, changes: &mut ChangeSet<'a>) {
        let Self {
            view,
            accounts,
            repos,
            removals,
            rests_until: _,
        } = self;
        let is_new = |(did, account): &(&str, AccountRow)| view.accounts.get(*did) != Some(account);
        changes.accounts.extend(accounts.into_iter().filter(is_new));
        changes.is_removing = view.has_removals || !removals.is_empty();
        changes.removals.extend(removals);
        for (did, repo) in repos {
            match (view.repos.get(did), repo) {
                (Some(before), Some(repo)) if *before == repo => {}
                (_, Some(repo)) => {
                    changes.repos.insert(did, repo);
                }
                (Some(_), None) => {
                    changes.untracked.insert(did);
                }
                (None, None) => {}
            }
        }
    }
}
