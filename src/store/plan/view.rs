//! What a plan has to know of the tables, and the keys that are read for it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use super::account::AccountRow;
use super::dead_letters::{Fingerprint, fingerprint};
use super::discovery::DiscoveryRow;
use super::gaps::GapRow;
use super::lost_stretch::ChainBreak;
use super::parked::ParkedView;
use super::repository::{Contents, RepoRow};
use super::retry::{KeptSince, Retried};
use super::task::{RepoChange, SnapshotPart, Task};
use crate::atproto::syntax::Did;
use crate::atproto::verify::Level;
use crate::model::{DeadLetter, Judgement, SourceId};
use crate::store::plan::effect::{CommitEffect, Effect, RecordChange, RecordVersion};

/// The rows of the keys that a task needs. A key that was not requested counts as absent.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By DID. All of [`Needs::accounts`]. Of [`Needs::guards`] only those that are or once were
    /// inactive, suspected or deleted, and those that are not in the change feed: commits of the others
    /// change nothing here.
    pub accounts: HashMap<String, AccountRow>,
    /// By DID.
    pub repos: HashMap<String, RepoRow>,
    /// By URI.
    pub records: HashMap<String, HeldRecord>,
    /// A gap within the followed stream is open.
    pub is_behind_gap: bool,
    /// The breaks of the chains of [`Needs::chains_of`].
    pub breaks: Vec<ChainBreak>,
    /// The set of interest was wider at some time than before. If nothing is known of a repository,
    /// its earlier commits may not have been wanted when they came.
    pub was_interest_widened: bool,
    /// Records are hidden because the set of interest did not want them for a while.
    pub has_stale_records: bool,
    /// Rows of an account are being deleted. [`Self::records`] does not have them.
    pub has_removals: bool,
    /// The gaps of the source with the requested origins, and all that are open.
    pub gaps: Vec<GapRow>,
    /// The discovery of [`Needs::discovery`].
    pub discovery: Option<DiscoveryRow>,
    pub dead_letters: HashSet<Fingerprint>,
    /// What other tables hold of [`Needs::contents_of`].
    pub contents: Contents,
    /// The repository of [`Needs::fetched_since`] was fetched whole since that time.
    pub was_fetched_since: bool,
    /// The durable cursor of [`Needs::source`].
    pub cursor: Option<u64>,
    /// The last number of the change feed that was given out.
    pub last_change: u64,
    /// Read only if a plan asks for it, because most batches park nothing.
    pub parked: OnceLock<ParkedView>,
}

/// The part of a row of `records` that guards later changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    pub rev: String,
    /// The value that was kept or refused; `None` if the record was deleted.
    pub cid: Option<String>,
    /// `None` if the record was deleted, or if an earlier version judged it.
    pub judgement: Option<Judgement>,
    /// `None` means that nothing was verified.
    pub verified: Option<Level>,
    pub source: String,
    pub seq: u64,
    /// The earlier of the event's time and our time of its receipt.
    pub time: String,
}

/// The keys that a task needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs<'a> {
    /// The source whose cursor is read.
    pub source: Option<&'a SourceId>,
    /// The DIDs of accounts that may change.
    pub accounts: BTreeSet<&'a str>,
    /// The DIDs of accounts that matter only if they are, or once were, inactive, suspected or
    /// deleted.
    pub guards: BTreeSet<&'a str>,
    /// The DIDs of repositories.
    pub repos: BTreeSet<&'a str>,
    /// The URIs of records.
    pub uris: BTreeSet<String>,
    /// The gaps of this source that begin after one of these seqs, and all of its open ones.
    pub gaps: Option<(&'a SourceId, BTreeSet<u64>)>,
    /// The collection whose discovery is read.
    pub discovery: Option<&'a str>,
    /// The source whose chains are checked. An open gap explains a break, so [`Self::gaps`] has them.
    pub chains_of: Option<&'a SourceId>,
    pub dead_letters: BTreeSet<Fingerprint>,
    /// The repository for which the presence of records and parked frames is read.
    pub contents_of: Option<&'a str>,
    /// The parked frames that do not count there.
    pub replayed: BTreeSet<i64>,
    /// It is read whether this account's repository was fetched whole since.
    pub fetched_since: Option<KeptSince<'a>>,
}

impl<'a> Needs<'a> {
    pub fn of(task: &Task<'a>) -> Self {
        let mut needs = Self {
            source: task.effects().map(|(source, _)| source),
            ..Self::default()
        };
        match *task {
            Task::Batch {
                source, effects, ..
            } => needs.add_effects(source, effects),
            Task::Change(RepoChange::Discovered(page)) => {
                needs.repos.extend(page.dids.iter().map(Did::as_str));
                needs.discovery = Some(page.search.as_str());
            }
            Task::Change(RepoChange::HostAnswered { unconfirmed, .. }) => {
                needs.add_account(&unconfirmed.did);
            }
            Task::Change(RepoChange::HandleChecked(check)) => needs.add_account(&check.did),
            Task::Change(RepoChange::HandleAnswered { due, .. }) => {
                needs.accounts.insert(due.did.as_str());
            }
            Task::Change(
                RepoChange::HostRefused { did, .. } | RepoChange::Override { did, .. },
            ) => needs.add_account(did),
            Task::Change(RepoChange::Replayed(replay)) => {
                needs.add_effects(replay.source(), replay.effects());
                needs.repos.insert(replay.did().as_str());
                needs.contents_of = Some(replay.did().as_str());
                needs.replayed = replay.ids(replay.count()).collect();
            }
            Task::Change(RepoChange::Rejudged(part)) => {
                for record in part.records {
                    needs
                        .uris
                        .extend(record.change.version().map(RecordVersion::uri));
                    if let Some(letter) = &record.letter {
                        needs.add_letter(part.source, letter);
                    }
                }
            }
            Task::Change(RepoChange::Reread { source, effects }) => {
                needs.add_effects(source, effects);
            }
            Task::Change(RepoChange::Retried(retry)) => match retry.outcome {
                Retried::Fetched { did } => {
                    needs.add_account(did);
                    needs.contents_of = Some(did.as_str());
                }
                Retried::Frame { source, effects } => needs.add_effects(source, effects),
                Retried::Record {
                    source,
                    effects,
                    kept,
                } => {
                    needs.add_effects(source, effects);
                    if let Some(kept) = kept {
                        needs.add_account(kept.did);
                        needs.contents_of = Some(kept.did.as_str());
                        needs.fetched_since = Some(kept);
                    }
                }
                Retried::ToldAccount { did } => needs.add_account(did),
                Retried::ToldRecord { uri } => _ = needs.uris.insert(uri.to_owned()),
            },
            Task::Change(RepoChange::RemovalEnded { did, .. }) => {
                needs.repos.insert(did);
                needs.contents_of = Some(did);
            }
            Task::Change(RepoChange::Repo { did, .. }) => {
                needs.add_account(did);
                needs.contents_of = Some(did.as_str());
            }
            Task::Change(RepoChange::Snapshot(part)) => {
                needs.add_effects(part.source, part.effects);
                needs.uris.extend(confirmed_uris(part));
            }
        }
        needs
    }

    fn add_effects(&mut self, source: &'a SourceId, effects: &'a [Effect]) {
        for effect in effects {
            match effect {
                Effect::Account(change) => self.add_account(&change.did),
                Effect::Commit(commit) => {
                    if commit.chain.is_some() {
                        self.chains_of = Some(source);
                        self.gaps.get_or_insert((source, BTreeSet::new()));
                    }
                    self.add_commit(commit);
                }
                Effect::DeadLetter(_) => {}
                Effect::Recheck(recheck) => {
                    self.repos.insert(recheck.did.as_str());
                }
                Effect::Gap(gap) => {
                    let (_, seqs) = self.gaps.get_or_insert((source, BTreeSet::new()));
                    seqs.insert(gap.from_seq);
                }
                Effect::Identity(change) => self.add_account(&change.did),
            }
        }
        for letter in effects.iter().flat_map(Effect::dead_letters) {
            self.add_letter(source, letter);
        }
    }

    fn add_account(&mut self, did: &'a Did) {
        self.accounts.insert(did.as_str());
        self.repos.insert(did.as_str());
    }

    fn add_commit(&mut self, commit: &'a CommitEffect) {
        let mut add = |did: &'a Did| {
            self.guards.insert(did.as_str());
            self.repos.insert(did.as_str());
        };
        if let Some(chain) = &commit.chain {
            add(&chain.did);
        }
        for version in commit.records.iter().filter_map(RecordChange::version) {
            add(&version.did);
            self.uris.insert(version.uri());
        }
    }

    fn add_letter(&mut self, source: &SourceId, letter: &'a DeadLetter) {
        self.guards.extend(letter.did.as_deref());
        self.dead_letters.insert(fingerprint(source, letter));
    }
}

/// The URIs of the records that are equal in the tables.
pub(super) fn confirmed_uris(part: &SnapshotPart<'_>) -> impl Iterator<Item = String> {
    let did = part.did;
    part.confirmed
        .iter()
        .map(move |path| format!("at://{did}/{path}"))
}
