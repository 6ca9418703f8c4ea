//! Follows a simulated network like the pipeline and the RepositoriesActor. It keeps only what the
//! plan writes.

use crate::store::plan::ResyncCause;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use jiff::Timestamp;
use simulated_network::network::Network;
use simulated_network::record::to_ipld;

use super::tables::{Tables, source};
use crate::atproto::event::{Change, Commit, Event, PutAction, RecordOp};
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::Level;
use crate::lexicon::Schemas;
use crate::model::{Resynced, SourceId};
use crate::source::firehose::decode::{Content, Evidence, decode};
use crate::source::interest::Interest;
use crate::source::process::records::Rules;
use crate::source::tracked::Tracked;
use crate::store::datetime::sortable;
use crate::store::plan::REST;
use crate::store::plan::effect::{ChainUpdate, CommitEffect, Effect, Predecessor};
use crate::store::plan::{
    DiscoveryPage, HostStatus, Replay, RepoChange, RepoEvent, RepoRow, RepoState, Resync,
    ResyncFailure, Search, SnapshotPart, WaitsFor,
};

/// More rounds of work than any network here needs.
const ENOUGH: usize = 1000;

pub(super) struct Follower {
    pub(super) tables: Tables,
    rules: Rules,
    random: Rng,
}

/// A frame and its account.
#[derive(Clone)]
struct AccountFrame {
    did: String,
    frame: Bytes,
}

impl Follower {
    pub(super) fn new(seed: u64, dids: impl Iterator<Item = String>) -> Self {
        let tracked = Tracked::default();
        dids.for_each(|did| tracked.insert(&did));
        let interest = Interest::new(["com.huddle.*".parse().unwrap()])
            .with_evidence()
            .tracking(Arc::new(tracked));
        let rules = Rules {
            source: source(),
            interest: Arc::new(interest),
            schemas: Schemas::embedded().unwrap(),
            policies: "off".parse().unwrap(),
        };
        Self {
            tables: Tables::default(),
            rules,
            random: Rng::with_seed(seed),
        }
    }

    // === The stream ===

    /// Receives `frames` in batches of any length. Some come twice, and the order of different
    /// accounts varies.
    pub(super) fn receive(&mut self, network: &Network, frames: impl Iterator<Item = Bytes>) {
        let frames: Vec<AccountFrame> = frames
            .filter_map(|frame| self.account_frame(frame))
            .collect();
        let frames = self.reordered(frames);
        let mut from = 0;
        while from < frames.len() {
            let end = (from + self.random.usize(1..12)).min(frames.len());
            let batch: Vec<Effect> = frames[from..end]
                .iter()
                .flat_map(|frame| {
                    let is_key_known = self.random.u32(..10) != 0;
                    self.effects_of(&frame.frame, is_key_known)
                })
                .collect();
            self.tables.apply(&batch);
            if self.random.u32(..3) == 0 {
                self.work(network);
            }
            from = match self.random.u32(..4) {
                0 => end.saturating_sub(self.random.usize(..10)),
                _ => end,
            };
        }
    }

    /// `None` if the frame belongs to no account.
    fn account_frame(&self, frame: Bytes) -> Option<AccountFrame> {
        let did = match decode(&frame, &self.rules.interest).unwrap().content {
            Content::Event(Event::Account(account)) => account.did,
            Content::Event(Event::Commit(commit)) => commit.did,
            Content::Event(Event::Identity(identity)) => identity.did,
            Content::Event(Event::Sync(sync)) => sync.did,
            _ => return None,
        };
        let did = did.to_string();
        Some(AccountFrame { did, frame })
    }

    /// The events of one account keep their order.
    fn reordered(&mut self, frames: Vec<AccountFrame>) -> Vec<AccountFrame> {
        let mut reordered = Vec::new();
        let mut rest = frames.as_slice();
        while !rest.is_empty() {
            let (window, others) = rest.split_at(self.random.usize(1..15).min(rest.len()));
            let mut ranks = BTreeMap::new();
            for frame in window {
                ranks
                    .entry(&frame.did)
                    .or_insert_with(|| self.random.u32(..));
            }
            let mut window: Vec<&AccountFrame> = window.iter().collect();
            window.sort_by_key(|frame| ranks[&frame.did]);
            reordered.extend(window.into_iter().cloned());
            rest = others;
        }
        reordered
    }

    fn effects_of(&self, frame: &Bytes, is_key_known: bool) -> Vec<Effect> {
        let decoded = decode(frame, &self.rules.interest).unwrap();
        let Content::Event(event) = decoded.content else {
            return Vec::new();
        };
        let Some(evidence) = &decoded.evidence else {
            let mut effects = Vec::new();
            self.rules.effects_of(event, None, &mut effects);
            for effect in &mut effects {
                if let Effect::Account(change) = effect {
                    change.is_unconfirmed = true;
                }
            }
            return effects;
        };
        let records = match &event {
            Event::Commit(commit) if is_key_known => {
                self.rules.records_of(commit, Some(Level::Chain))
            }
            _ => Vec::new(),
        };
        let predecessor = match evidence {
            _ if !is_key_known => Predecessor::KeyUnavailable,
            Evidence::Sync(_) => Predecessor::Unstated,
            Evidence::Commit(commit) => Predecessor::After {
                since: commit.since.clone(),
                prev_data: commit.prev_data,
                is_lenient: false,
            },
        };
        let position = event.position().unwrap();
        let commit = evidence.commit();
        let chain = Some(ChainUpdate {
            did: commit.did.clone(),
            rev: commit.rev.clone(),
            data: commit.data,
            seq: position.seq,
            time: position.time.unwrap(),
            predecessor,
            wants_history: false,
            lacks_record: false,
            has_wanted_ops: true,
            begins_empty: false,
            awaits_directory: false,
            frame: frame.clone(),
        });
        vec![Effect::Commit(Box::new(CommitEffect { chain, records }))]
    }

    // === The work on repositories ===

    /// Finds every repository, like a discovery.
    pub(super) fn discover(&mut self, network: &Network) {
        let dids: Vec<Did> = network
            .accounts()
            .iter()
            .map(|account| Did::parse(&account.did).unwrap())
            .collect();
        let page = DiscoveryPage {
            search: &Search::AllRepos,
            dids: &dids,
            cursor: None,
            pass: 1,
        };
        self.tables.change(RepoChange::Discovered(&page));
    }

    /// Runs jobs until none is due.
    pub(super) fn work(&mut self, network: &Network) {
        for _ in 0..ENOUGH {
            if !self.ask_a_host(network) && !self.work_on_a_repo(network) {
                return;
            }
        }
        panic!("the work does not end: {:?}", self.tables.repos);
    }

    fn ask_a_host(&mut self, network: &Network) -> bool {
        let mut accounts = self.tables.accounts.iter();
        let Some((did, account)) = accounts.find(|(_, account)| account.is_unconfirmed) else {
            return false;
        };
        let unconfirmed = account.question(Did::parse(did).unwrap());
        let status = network.account(did).unwrap().status;
        let answer = match status.map(|status| status.as_str()) {
            None => HostStatus::Active,
            Some("deleted") => HostStatus::Deleted,
            Some(status) => HostStatus::Inactive(Some(status.to_owned())),
        };
        self.tables.change(RepoChange::HostAnswered {
            unconfirmed: &unconfirmed,
            answer: &answer,
        });
        true
    }

    fn work_on_a_repo(&mut self, network: &Network) -> bool {
        let is_due = |(_, repo): &(&String, &RepoRow)| {
            let has_work =
                !repo.state.takes_commits() || repo.has_parked || repo.recheck_cause.is_some();
            has_work && !is_resting(repo)
        };
        let Some((did, repo)) = self.tables.repos.iter().find(is_due) else {
            return false;
        };
        let (did, repo) = (did.clone(), repo.clone());
        let account = self.tables.accounts.get(&did);
        if account.is_some_and(|account| !account.is_active) {
            let until = Timestamp::UNIX_EPOCH + REST;
            self.tables.note(&did, RepoEvent::Suspend { until });
        } else if !repo.state.takes_commits() {
            self.fetch(network, &did);
        } else if repo.has_parked {
            self.replay(&did);
        } else {
            let recheck_cause = repo.recheck_cause;
            self.tables
                .note(&did, RepoEvent::ConfirmRecheck { recheck_cause });
        }
        true
    }

    fn replay(&mut self, did: &str) {
        let parked = self.tables.parked(did, 1);
        let Some(parked) = parked.first() else {
            self.tables.note(did, RepoEvent::FinishReplay);
            return;
        };
        let effects = self.effects_of(&parked.frame, true);
        self.tables
            .change(RepoChange::Replayed(Replay::of_one(parked, &effects)));
    }

    fn fetch(&mut self, network: &Network, did: &str) {
        self.tables.note(did, RepoEvent::BeginResync);
        let account = network.account(did).unwrap();
        let did = Did::parse(did).unwrap();
        let Some(head) = account.repo.head().filter(|_| account.is_active()) else {
            // Its host refuses it.
            let status = account.status.map_or("deleted", |status| status.as_str());
            self.tables
                .change(RepoChange::HostRefused { did: &did, status });
            let failure = ResyncFailure {
                error: status.to_owned(),
                is_throttled: false,
                is_gone: status == "deleted",
                waits_for: WaitsFor::Account,
                retry_at: Timestamp::UNIX_EPOCH,
            };
            self.end_resync(&did, Err(failure));
            return;
        };
        let rev = Tid::parse(&head.rev).unwrap();
        let (time, data) = (self.as_of(&did, &rev), head.data);
        let accounts = network.oracle().now();
        let (mut ops, mut confirmed) = (Vec::new(), Vec::new());
        let mut wanted: BTreeMap<String, _> = accounts[did.as_str()]
            .records
            .iter()
            .filter(|(path, _)| self.rules.interest.wants_path(path))
            .map(|(path, record)| (path.clone(), record))
            .collect();
        let root = format!("at://{did}/");
        for (uri, held) in self.tables.records_of(did.as_str()) {
            let path = uri[root.len()..].to_owned();
            let found = wanted.remove(&path);
            let cid = found.map(|found| found.cid.to_string());
            if cid.is_some() && cid == held.cid {
                confirmed.push(path);
            } else if held.rev <= head.rev && (cid.is_some() || held.cid.is_some()) {
                ops.push(op(&path, found));
            }
        }
        ops.extend(wanted.iter().map(|(path, found)| op(path, Some(found))));
        let commit = Commit {
            seq: 0,
            did: did.clone(),
            rev: rev.clone(),
            since: None,
            time,
            commit: head.commit,
            data,
            prev_data: None,
            ops,
            misnamed: Vec::new(),
        };
        let records = self.rules.records_of(&commit, Some(Level::Chain));
        let part = SnapshotPart {
            source: &SourceId::new("https://host.example/"),
            did: &did,
            effects: &[Effect::records(records)],
            confirmed: &confirmed,
        };
        self.tables.change(RepoChange::Snapshot(&part));
        let done = Resynced {
            rev: rev.to_string(),
            data: data.to_string(),
            time,
            ..Resynced::default()
        };
        self.end_resync(&did, Ok(done));
    }

    fn end_resync(&mut self, did: &Did, outcome: Result<Resynced, ResyncFailure>) {
        let resync = Resync {
            did: did.clone(),
            cause: ResyncCause::Operator,
            host: Some("https://host.example/".to_owned()),
            started_at: Timestamp::UNIX_EPOCH,
            outcome,
        };
        self.tables
            .note(did.as_str(), RepoEvent::EndResync(&resync));
    }

    /// The time of a snapshot: not before the event that made the account active.
    fn as_of(&self, did: &Did, rev: &Tid) -> Timestamp {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let account = self.tables.accounts.get(did.as_str());
        let status = account.and_then(|account| account.as_of.as_ref());
        let status_as_of = status.map(|as_of| time(&as_of.time));
        status_as_of.map_or(rev.timestamp(), |time| time.max(rev.timestamp()))
    }

    /// The repositories that are in this state.
    pub(super) fn in_state(&self, state: RepoState) -> usize {
        let repos = self.tables.repos.values();
        repos.filter(|repo| repo.state == state).count()
    }
}

/// Whether its job waits until its account is active again.
fn is_resting(repo: &RepoRow) -> bool {
    repo.retry_at == Some(sortable(Timestamp::UNIX_EPOCH + REST))
}

/// The operation that makes a row equal to the repository; without a record it is a deletion.
fn op(path: &str, found: Option<&simulated_network::oracle::Record>) -> RecordOp {
    let (collection, rkey) = path.split_once('/').unwrap();
    RecordOp {
        collection: Nsid::parse(collection).unwrap(),
        rkey: RecordKey::parse(rkey).unwrap(),
        change: found.map_or(Change::Delete, |found| Change::Put {
            action: PutAction::Create,
            cid: found.cid,
            record: serde_ipld_dagcbor::to_vec(&to_ipld(&found.value))
                .unwrap()
                .into(),
        }),
    }
}
