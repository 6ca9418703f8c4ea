//! Plans what a list of effects changes in the tables.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;

use super::account::AccountChanges;
use super::chain::{Decision, Known, decide, has_wrong_since, is_very_first};
use super::change_set::ChangeSet;
use super::dead_letters::fingerprint;
use super::draft::Draft;
use super::gaps::{GapRow, Gaps, is_within_the_stream};
use super::lost_stretch::{Breaks, OpenGap};
use super::order::{Event, Order};
use super::parked::{Parked, ParkedNeeds, Parking};
use super::records::{Guard, RecordWrite, Removals, last_changes, newest_commits, refreshed, rows};
use super::repository::RepoRow;
use super::resync_cause::ResyncCause;
use super::retry;
use crate::atproto::syntax::Did;
use crate::model::{DeadLetter, ParkedReason, SourceId};
use crate::store::plan::effect::{
    ChainUpdate, CommitEffect, Effect, Predecessor, Recheck, RecheckReason,
};

/// Where effects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Stream,
    /// The replay of a parked commit.
    Replay,
    /// Events of the stream that were read again beside it.
    Reread,
    /// A dead letter that holds a frame. Its commit is applied if it follows from the head, and is never
    /// parked.
    RetriedFrame,
    /// A dead letter that holds a record. Its commit is known.
    RetriedRecord,
    /// A repository that was fetched as a whole. Its head moves only after all of it is written.
    Snapshot,
}

/// A list of effects that is being planned.
pub(super) struct Batch<'a> {
    pub(super) source: &'a SourceId,
    pub(super) effects: &'a [Effect],
    pub(super) origin: Origin,
    pub(super) order: Order<'a>,
    /// When the host of an inactive account that commits is asked again.
    pub(super) ask_at: String,
    /// When the repository of an account that was just announced is fetched.
    pub(super) fetch_announced_at: String,
    pub(super) now: Timestamp,
    /// When a handle that is no longer known is taken from its document.
    pub(super) handle_due_at: String,
}

/// The decisions on the commits of a batch.
#[derive(Debug, Default)]
struct Decided<'a> {
    /// Chain updates that are not stale.
    fresh: Vec<&'a ChainUpdate>,
    /// Chain updates that have to be parked.
    parked: Vec<Parked<'a>>,
    /// The records to write.
    admitted: Vec<RecordWrite<'a>>,
    /// Those of `admitted` whose chain is not checked.
    unverified: Vec<RecordWrite<'a>>,
    /// All records, admitted or not.
    records: u64,
    /// Commits that were applied although they name a wrong rev before them.
    wrong_sinces: u64,
    /// A repository has to be rechecked or fetched.
    leaves_work: bool,
    /// A commit of a dead letter has its repository fetched.
    fetched_instead: bool,
    /// The effect at which a replay is stuck.
    stuck: Option<usize>,
}

impl<'a> Batch<'a> {
    /// Accounts come first. So a deletion in the batch also removes earlier records of the same
    /// batch, at any place in it.
    ///
    /// Returns the index of the effect at which a replay is stuck, if it is: that commit does not follow
    /// from the head of its repository. Nothing behind it is decided.
    pub(super) fn plan(
        &self,
        draft: &mut Draft<'a>,
        changes: &mut ChangeSet<'a>,
    ) -> Result<Option<usize>, ParkedNeeds> {
        changes.source = Some(self.source);
        changes.changed_identities = self.changed_identities();
        changes.followed = self.order.cursor.filter(|_| !self.order.is_restarted);
        let has_new_gap = self.open_gaps(draft, changes);
        let view = draft.view;
        let is_behind_gap = view.is_behind_gap || view.was_interest_widened || has_new_gap;
        let accounts = AccountChanges::of(self.effects, &self.order);
        let has_to_be_fetched = self.change_accounts(draft, &accounts, is_behind_gap);
        let removals = self.removals(draft, &accounts);
        let open_gaps = self.open_gaps_of(draft, changes);
        let mut breaks = Breaks::new(&view.breaks, open_gaps, self.now);
        let decided = self.decide(draft, &removals, is_behind_gap, &mut breaks);
        self.find_lost_stretch(changes, breaks);
        self.write_records(draft, changes, &decided, &removals);
        let moves_heads = !matches!(self.origin, Origin::RetriedRecord | Origin::Snapshot);
        let is_fetched = moves_heads && self.move_unverified_heads(draft, &decided, &removals);
        if self.origin != Origin::Replay {
            park(draft, changes, &decided.parked)?;
        }
        self.note_commits(draft, &decided);
        self.add_dead_letters(draft, changes, decided.stuck);

        let written = &mut changes.written;
        written.records = changes.records.len() as u64;
        written.stale = decided.records - written.records;
        written.dead_letters = changes.dead_letters.len() as u64;
        written.parked = decided.parked.len() as u64;
        written.wrong_sinces = decided.wrong_sinces;
        written.fetched_instead = decided.fetched_instead;
        written.leaves_work = has_to_be_fetched
            || is_fetched
            || decided.leaves_work
            || written.parked > 0
            || written.lost_stretch.is_some();
        Ok(decided.stuck)
    }

    /// Applies the statuses and handles. Returns whether a repository has to be fetched because its
    /// account is active again.
    fn change_accounts(
        &self,
        draft: &mut Draft<'a>,
        accounts: &AccountChanges<'a>,
        is_behind_gap: bool,
    ) -> bool {
        let order = &self.order;
        let mut has_to_be_fetched = false;
        for (did, statuses) in &accounts.statuses {
            let is_news = statuses.0.iter().any(|status| {
                let known = draft.account(did);
                known.is_none_or(|account| account.takes(status, order))
            });
            if statuses.is_active_now() && is_news {
                let wants_history = is_behind_gap || statuses.wants_history();
                has_to_be_fetched |=
                    self.bring_back(draft, did, statuses.was_inactive(), wants_history);
            }
        }
        // A repository that is tracked from this batch on is tracked too.
        let chains = self.commits().filter_map(|commit| commit.chain.as_ref());
        let of_batch: BTreeSet<&str> = chains.map(|chain| chain.did.as_str()).collect();
        for (did, statuses) in &accounts.statuses {
            let is_tracked = draft.repo(did).is_some() || of_batch.contains(did);
            let account = draft.account_mut(did);
            account.take_statuses(statuses, order, is_tracked);
        }
        for (did, (handle, event)) in &accounts.handles {
            draft.account_mut(did).take_handle(handle, *event, order);
        }
        for (did, event) in &accounts.unknown_handles {
            // Of an account that is not kept, there is nothing to forget and nothing to look up.
            if draft.account(did).is_some() || draft.repo(did).is_some() {
                let known = draft.view.accounts.get(*did);
                let known = known.and_then(|account| account.handle_as_of.as_ref());
                let is_news = known.is_none_or(|known| order.is_after(*event, known));
                let named = accounts.handles.get(did);
                let is_last = named.is_none_or(|(_, named)| order.is_later(*named, *event));
                if is_news && is_last {
                    draft.account_mut(did).doubt_handle(&self.handle_due_at);
                }
            }
        }
        has_to_be_fetched
    }

    /// Has the repository of an account fetched that is active now, unless it was active all the
    /// time. Returns whether it has to be fetched.
    ///
    /// A discovery finds active accounts only. So a repository that is not tracked is fetched too if
    /// its past is wanted: the account may have been inactive while the discovery passed it. Most
    /// of these accounts are new. They have some time to show that by their first commit.
    fn bring_back(
        &self,
        draft: &mut Draft<'a>,
        did: &'a str,
        was_inactive: bool,
        wants_history: bool,
    ) -> bool {
        let account = draft.account(did);
        let was_known_active = account.is_some_and(|account| account.is_known_active());
        let was_known_inactive = account.is_some_and(|account| !account.is_active);
        if let Some(repo) = draft.repo_mut(did) {
            let returns = was_inactive || was_known_inactive;
            if returns {
                repo.resume_account();
            }
            return returns;
        }
        let has_unknown_past = wants_history && (was_inactive || !was_known_active);
        if has_unknown_past {
            draft.set_repo(did, Some(RepoRow::announced(&self.fetch_announced_at)));
        }
        has_unknown_past
    }

    /// Removes what deleted accounts wrote. Returns which commits of the batch are removed with them.
    fn removals(&self, draft: &mut Draft<'a>, accounts: &AccountChanges<'a>) -> Removals {
        let mut removals = Removals::default();
        for (did, event) in &accounts.removals {
            if draft.remove(did, *event, &self.order) {
                removals.insert_of_batch(did, *event);
            }
        }
        for commit in self.commits() {
            let of_chain = commit.chain.as_ref().map(|chain| &chain.did);
            let of_records = commit.records.iter().filter_map(|record| record.version());
            let dids = of_records.map(|version| &version.did).chain(of_chain);
            for did in dids {
                let did = did.as_str();
                let stored = draft.view.accounts.get(did);
                let Some(account) = stored.filter(|account| account.removed.is_some()) else {
                    continue;
                };
                match (self.origin, &account.removed) {
                    // It was fetched after the removal, unless the account is still deleted.
                    (Origin::Snapshot, _) if account.is_deleted() => removals.insert_deleted(did),
                    (Origin::Snapshot, _) | (_, None) => {}
                    (_, Some(removed)) => {
                        removals.insert_stored(did, removed.clone());
                    }
                }
            }
        }
        removals
    }

    /// The accounts whose documents may have changed, whatever else is known of them.
    fn changed_identities(&self) -> BTreeSet<&'a str> {
        let changed = self.effects.iter().filter_map(|effect| match effect {
            Effect::Identity(change) => Some(change.did.as_str()),
            _ => None,
        });
        changed.collect()
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

    /// Has a repository fetched because a record of it is missing, or rechecked because a commit of
    /// it was refused. A tracked one is then compared with its host. One that is not tracked is
    /// fetched if its records are wanted. Returns whether there is any work.
    fn recheck(draft: &mut Draft<'a>, recheck: &'a Recheck) -> bool {
        let did = recheck.did.as_str();
        let is_wanted = match recheck.reason {
            RecheckReason::RecordMissing => {
                draft.tracked_mut(did).fetch(ResyncCause::RecordMissing);
                return true;
            }
            RecheckReason::Refused { is_wanted } => is_wanted,
        };
        match draft.repo_mut(did) {
            Some(repo) => repo.recheck(is_wanted),
            None if is_wanted => {
                draft.set_repo(did, Some(RepoRow::to_be_fetched(ResyncCause::Refused)));
                true
            }
            None => false,
        }
    }

    /// Decides on the commits of the batch in their order, with the refused ones in between. So the
    /// fate of a commit does not depend on where batches end: one before a refused commit is applied,
    /// and one behind it does not begin a chain.
    fn decide(
        &self,
        draft: &mut Draft<'a>,
        removals: &Removals,
        is_behind_gap: bool,
        breaks: &mut Breaks<'_>,
    ) -> Decided<'a> {
        let mut decided = Decided::default();
        for (index, effect) in self.effects.iter().enumerate() {
            let commit = match effect {
                Effect::Commit(commit) => commit,
                Effect::Recheck(recheck) => {
                    decided.leaves_work |= Self::recheck(draft, recheck);
                    continue;
                }
                _ => continue,
            };
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
            let has_key = update.predecessor != Predecessor::KeyUnavailable;
            let has_records = match has_key {
                true => records().next().is_some() || update.lacks_record,
                false => update.has_wanted_ops,
            };
            let is_irrelevant = known.repo.is_none() && !has_records;
            let event = Event::of_chain(update);
            let is_removed = removals.cover(&update.did, event, &self.order);
            let is_new_account = !is_removed
                && !has_records
                && update.begins_empty
                && known.repo.is_none_or(RepoRow::is_only_announced);
            if is_new_account {
                draft.set_repo(did, None);
                continue;
            }
            let decision = match is_irrelevant || is_removed {
                true => Decision::Stale,
                false => decide(known, update),
            };
            let is_retry = self.origin == Origin::RetriedFrame;
            if is_retry && !is_irrelevant && !is_removed && decision != Decision::Follows {
                retry::fetch(draft, did);
                decided.fetched_instead = true;
                decided.leaves_work = true;
                continue;
            }
            match decision {
                Decision::Stale => continue,
                Decision::Follows => {
                    decided.wrong_sinces += u64::from(has_wrong_since(known.repo, update));
                    if known.repo.is_some() {
                        breaks.hold();
                    }
                    let is_whole = is_very_first(update);
                    draft.tracked_mut(did).follow(update, is_whole, self.source);
                    decided.admitted.extend(records());
                }
                Decision::Parks => {
                    let is_fetched = known.repo.is_some_and(|repo| !repo.state.takes_commits());
                    let reason = match (is_fetched, update.awaits_directory) {
                        (true, _) => ParkedReason::Repository,
                        (false, true) => ParkedReason::Key,
                        (false, false) => ParkedReason::Account,
                    };
                    draft.tracked_mut(did).park();
                    decided.parked.push(Parked { update, reason });
                }
                Decision::Breaks(broken) => {
                    self.note_break(draft, update, broken, breaks);
                    draft.tracked_mut(did).break_chain(broken);
                    let reason = ParkedReason::Repository;
                    decided.parked.push(Parked { update, reason });
                }
                Decision::Forks => {
                    draft.tracked_mut(did).fetch(ResyncCause::Fork);
                    decided.leaves_work = true;
                }
            }
            decided.fresh.push(update);
            if self.origin == Origin::Replay && !decided.parked.is_empty() {
                // The frames behind it are replayed after it.
                decided.stuck = Some(index);
                break;
            }
        }
        decided
    }

    /// Notes a commit that does not follow from the head of its repository, unless that is
    /// explained.
    fn note_break(
        &self,
        draft: &Draft<'a>,
        update: &ChainUpdate,
        cause: ResyncCause,
        breaks: &mut Breaks<'_>,
    ) {
        let did = update.did.as_str();
        let is_evidence = matches!(cause, ResyncCause::PrevData | ResyncCause::Since);
        let Some(repo) = draft.repo(did).filter(|repo| repo.recheck_cause.is_none()) else {
            return;
        };
        let is_of_source = repo.source.as_deref() == Some(self.source.as_str());
        let held_seq = repo.seq.filter(|_| is_of_source);
        // A repository that was fetched may be older than a commit that was parked meanwhile.
        let is_behind_fetch = self.origin == Origin::Replay && held_seq.is_none();
        if !is_evidence || is_behind_fetch {
            return;
        }
        let held_time = repo.time.as_deref().and_then(|time| time.parse().ok());
        let held = held_seq.map(|seq| (seq, held_time));
        breaks.note(did, held, update.seq, update.time);
    }

    /// Opens a gap if the chains of several accounts have broken. What a replay has shown is judged
    /// with the next batch of the stream.
    fn find_lost_stretch(&self, changes: &mut ChangeSet<'a>, mut breaks: Breaks<'_>) {
        if self.origin == Origin::Stream
            && let Some((gap, stretch)) = breaks.judge()
        {
            changes.gaps.push(GapRow::of(&gap));
            changes.written.lost_stretch = Some(stretch);
        }
        changes.breaks = breaks.into_changes();
    }

    /// The open gaps of the source, with those of this batch.
    fn open_gaps_of(&self, draft: &Draft<'a>, changes: &ChangeSet<'a>) -> Vec<OpenGap> {
        let gaps = draft.view.gaps.iter().chain(&changes.gaps);
        let open = gaps.filter(|gap| gap.is_open);
        open.map(OpenGap::of).collect()
    }

    fn write_records(
        &self,
        draft: &Draft<'a>,
        changes: &mut ChangeSet<'a>,
        decided: &Decided<'a>,
        removals: &Removals,
    ) {
        let guard = self.guard();
        let records = last_changes(decided.admitted.iter().copied(), removals, guard);
        let held = |uri: &str, did: &Did| {
            let held = draft.view.records.get(uri)?;
            (!draft.removes(did.as_str(), held, &self.order)).then_some(held)
        };
        if draft.view.has_stale_records {
            changes.refreshed = refreshed(&records, guard, held);
        }
        changes.records = rows(records, guard, held);
    }

    /// Moves the head of each repository whose chain is not checked to its newest commit. Returns
    /// whether one has to be fetched: nothing was known of it, and its earlier commits may not have
    /// been wanted when they came. Where nothing is verified, no host is asked.
    fn move_unverified_heads(
        &self,
        draft: &mut Draft<'a>,
        decided: &Decided<'a>,
        removals: &Removals,
    ) -> bool {
        let mut has_to_be_fetched = false;
        let newest = decided.unverified.iter().copied().filter(|record| {
            let version = record.version();
            !removals.cover(&version.did, Event::of(version), &self.order)
        });
        for (did, version) in newest_commits(newest, self.guard()) {
            let may_lack_records = draft.view.was_interest_widened && version.verified.is_some();
            let repo = draft.tracked_mut(did);
            let is_unknown = repo.rev.is_none() && repo.state.takes_commits();
            repo.move_unverified_head(version, self.source, &self.order);
            if is_unknown && may_lack_records {
                repo.fetch_for_interest();
                has_to_be_fetched = true;
            }
        }
        has_to_be_fetched
    }

    /// Lets accounts that are inactive or suspected react to their commits.
    fn note_commits(&self, draft: &mut Draft<'a>, decided: &Decided<'a>) {
        // A commit that was parked, or belongs to a fetched repository, may be older than what is
        // known of its account.
        let is_new = self.origin == Origin::Stream;
        let chained = decided.fresh.iter().map(|update| {
            let is_verified = update.predecessor != Predecessor::KeyUnavailable;
            (&update.did, Event::of_chain(update), is_verified && is_new)
        });
        let unchained = decided.unverified.iter().filter_map(|record| {
            let version = record.version();
            let is_verified = version.verified.is_some() && is_new;
            is_verified.then_some((&version.did, Event::of(version), true))
        });
        for (did, event, is_verified) in chained.chain(unchained) {
            let did = did.as_str();
            if draft.account(did).is_some() {
                let account = draft.account_mut(did);
                account.note_commit(event, &self.order, is_verified, &self.ask_at);
            }
        }
    }

    /// `stuck`: the effect at which a replay is stuck. The letters behind it come with its own replay.
    fn add_dead_letters(
        &self,
        draft: &Draft<'a>,
        changes: &mut ChangeSet<'a>,
        stuck: Option<usize>,
    ) {
        let mut known = HashSet::new();
        let count = stuck.map_or(self.effects.len(), |last| last + 1);
        let effects = &self.effects[..count];
        for letter in effects.iter().flat_map(Effect::dead_letters) {
            if self.is_removed(draft, letter) {
                continue;
            }
            let fingerprint = fingerprint(self.source, letter);
            if !draft.view.dead_letters.contains(&fingerprint) && known.insert(fingerprint) {
                changes.dead_letters.push((fingerprint, letter));
            }
        }
    }

    /// Whether the letter is of an event before its account's deletion, with which its letters were
    /// removed.
    fn is_removed(&self, draft: &Draft<'a>, letter: &DeadLetter) -> bool {
        let account = letter.did.as_deref().and_then(|did| draft.account(did));
        let removed = account.and_then(|account| account.removed.as_ref());
        removed.zip(letter.seq).is_some_and(|(removed, seq)| {
            !matches!(self.origin, Origin::Replay | Origin::Snapshot)
                && self.order.precedes(seq, removed)
        })
    }

    fn guard(&self) -> Guard<'_> {
        Guard {
            order: &self.order,
            source: self.source,
            is_snapshot: self.origin == Origin::Snapshot,
        }
    }

    fn commits(&self) -> impl Iterator<Item = &'a CommitEffect> + use<'a> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Commit(commit) => Some(commit.as_ref()),
            _ => None,
        })
    }
}

/// Parks `updates`. If a repository exceeds its limit, all of its parked commits are dropped.
fn park<'a>(
    draft: &mut Draft<'a>,
    changes: &mut ChangeSet<'a>,
    updates: &[Parked<'a>],
) -> Result<(), ParkedNeeds> {
    if updates.is_empty() {
        return Ok(());
    }
    let Some(parked) = draft.view.parked.get() else {
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
