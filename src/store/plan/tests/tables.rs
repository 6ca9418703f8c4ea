//! The tables in memory. They give a plan only the keys that it asks for, and apply a change set as
//! it is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;

use crate::atproto::syntax::Did;
use crate::atproto::verify::Level;
use crate::model::{Judgement, SourceId};
use crate::store::datetime::sortable;
use crate::store::plan::effect::{Effect, RecordChange};
use crate::store::plan::order::Order;
use crate::store::plan::{
    AccountRow, ChainBreak, ChangeSet, Contents, Fingerprint, GapRow, HeldRecord, Moment, Needs,
    ParkedCommit, ParkedNeeds, ParkedView, RecordRow, RecordWrite, Removal, RepoChange, RepoEvent,
    RepoRow, Task, View, Written, plan,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) accounts: BTreeMap<String, AccountRow>,
    pub(super) repos: BTreeMap<String, RepoRow>,
    pub(super) records: BTreeMap<String, Record>,
    pub(super) parked: BTreeMap<i64, Parked>,
    pub(super) dead_letters: BTreeSet<Fingerprint>,
    gaps: Vec<GapRow>,
    /// The durable cursor of the source.
    cursor: u64,
    breaks: BTreeMap<String, ChainBreak>,
    last_id: i64,
}

/// A row of `records`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) did: String,
    pub(super) rev: String,
    source: String,
    seq: u64,
    time: String,
    /// `None` is a tombstone.
    pub(super) cid: Option<String>,
    judged: Option<(String, Judgement)>,
    verified: Option<Level>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parked {
    pub(super) did: String,
    seq: u64,
    pub(super) frame: Bytes,
}

/// Ids of rows are ignored; only their order counts.
impl PartialEq for Tables {
    fn eq(&self, other: &Self) -> bool {
        let parked = self.parked.values().eq(other.parked.values());
        let gap = |gap: &GapRow| GapRow {
            id: None,
            ..gap.clone()
        };
        let gaps = self.gaps.iter().map(gap).eq(other.gaps.iter().map(gap));
        let rows = (&self.accounts, &self.repos, &self.records)
            == (&other.accounts, &other.repos, &other.records);
        parked && gaps && rows && self.dead_letters == other.dead_letters
    }
}

pub(super) fn source() -> SourceId {
    SourceId::new("wss://relay.example/")
}

/// The seqs of the events that an effect comes from.
fn seqs_of(effect: &Effect) -> Vec<u64> {
    match effect {
        Effect::Account(change) => vec![change.seq],
        Effect::Identity(change) => vec![change.seq],
        Effect::Commit(commit) => {
            let records = commit.records.iter().filter_map(RecordChange::version);
            let chain = commit.chain.as_ref().map(|chain| chain.seq);
            records.map(|version| version.seq).chain(chain).collect()
        }
        Effect::DeadLetter(_) | Effect::Gap(_) | Effect::Recheck(_) => Vec::new(),
    }
}

impl Tables {
    pub(super) fn apply(&mut self, effects: &[Effect]) -> Written {
        let source = &source();
        let seqs = effects.iter().flat_map(seqs_of);
        let through = seqs.max().unwrap_or_default().max(self.cursor);
        let written = self.perform(&Task::Batch {
            source,
            effects,
            through: Some(through),
        });
        self.cursor = through;
        written
    }

    pub(super) fn note(&mut self, did: &str, event: RepoEvent<'_>) {
        let did = &Did::parse(did).unwrap();
        self.change(RepoChange::Repo { did, event });
    }

    pub(super) fn change(&mut self, change: RepoChange<'_>) -> Written {
        self.perform(&Task::Change(change))
    }

    fn perform(&mut self, task: &Task<'_>) -> Written {
        // Later than the times and revs of all tests.
        let moment = Moment::at(Timestamp::from_second(4_000_000_000).unwrap());
        let view = self.view(&Needs::of(task));
        let changes = loop {
            match plan(&view, task, moment) {
                Ok(changes) => break changes,
                Err(needs) => {
                    let asked_first = view.parked.set(self.parked_view(&needs));
                    assert!(asked_first.is_ok(), "the plan asks for parked frames twice");
                }
            }
        };
        let written = changes.written;
        self.write(&changes, moment);
        written
    }

    /// The oldest parked frames of a repository.
    pub(super) fn parked(&self, did: &str, limit: usize) -> Vec<ParkedCommit> {
        let of_repo = self.parked.iter().filter(|(_, parked)| parked.did == did);
        let of_repo = of_repo.map(|(id, parked)| ParkedCommit {
            id: *id,
            did: Did::parse(did).unwrap(),
            known_head: None,
            source: source(),
            frame: parked.frame.clone(),
        });
        of_repo.take(limit).collect()
    }

    pub(super) fn records_of(&self, did: &str) -> impl Iterator<Item = (&String, &Record)> {
        self.records
            .iter()
            .filter(move |(_, record)| record.did == did)
    }

    fn view(&self, needs: &Needs<'_>) -> View {
        let mut view = View::default();
        for (did, account) in &self.accounts {
            let is_guard = account.removed.is_some() || !account.is_active;
            let did_is_in = |dids: &BTreeSet<&str>| dids.contains(did.as_str());
            if did_is_in(&needs.accounts) || (did_is_in(&needs.guards) && is_guard) {
                view.accounts.insert(did.clone(), account.clone());
            }
        }
        for (did, repo) in &self.repos {
            if needs.repos.contains(did.as_str()) {
                view.repos.insert(did.clone(), repo.clone());
            }
        }
        for uri in &needs.uris {
            if let Some(record) = self.records.get(uri) {
                let held = HeldRecord {
                    rev: record.rev.clone(),
                    cid: record.judged.as_ref().map(|(cid, _)| cid.clone()),
                    judgement: record.judged.as_ref().map(|(_, judgement)| *judgement),
                    verified: record.verified,
                    source: record.source.clone(),
                    seq: record.seq,
                    time: record.time.clone(),
                };
                view.records.insert(uri.clone(), held);
            }
        }
        view.cursor = needs.source.map(|_| self.cursor);
        view.is_behind_gap = self
            .gaps
            .iter()
            .any(|gap| gap.is_open && gap.cause != "started_live");
        if let Some((_, seqs)) = &needs.gaps {
            let asked = self
                .gaps
                .iter()
                .filter(|gap| gap.is_open || seqs.contains(&gap.from_seq));
            view.gaps = asked.cloned().collect();
        }
        if needs.chains_of.is_some() {
            view.breaks = self.breaks.values().cloned().collect();
        }
        let known = needs.dead_letters.intersection(&self.dead_letters);
        view.dead_letters = known.copied().collect();
        if let Some(did) = needs.contents_of {
            let is_other =
                |(id, parked): (&i64, &Parked)| parked.did == did && !needs.replayed.contains(id);
            view.contents = Contents {
                has_records: self.records_of(did).next().is_some(),
                has_parked: self.parked.iter().any(is_other),
            };
        }
        view
    }

    fn parked_view(&self, needs: &ParkedNeeds) -> ParkedView {
        let mut view = ParkedView::default();
        for parked in self.parked.values() {
            let bytes = parked.frame.len() as u64;
            view.total += bytes;
            if needs.dids.contains(&parked.did) {
                *view.bytes.entry(parked.did.clone()).or_default() += bytes;
            }
            let frame = (parked.did.clone(), parked.seq);
            if needs.frames.contains(&frame) {
                view.frames.insert((frame.0, frame.1, parked.frame.clone()));
            }
        }
        view
    }

    fn write(&mut self, changes: &ChangeSet<'_>, moment: Moment) {
        for (did, account) in &changes.accounts {
            self.accounts.insert((*did).to_owned(), account.clone());
        }
        let order = Order {
            source: None,
            cursor: changes.followed,
            through: None,
            is_restarted: false,
            moment,
        };
        for (did, removal) in &changes.removals {
            let removed = self.accounts[*did].removed.clone().unwrap();
            self.records.retain(|_, record| {
                let row = (
                    Some(record.source.as_str()),
                    Some(record.seq),
                    record.time.as_str(),
                );
                let is_removed = match removal {
                    Removal::Everything => true,
                    Removal::BeforeEvent => !order.survives(row, &removed),
                };
                record.did != *did || !is_removed
            });
            self.parked.retain(|_, parked| parked.did != *did);
        }
        for uri in &changes.confirmed {
            self.records.get_mut(uri).unwrap().verified = Some(Level::Chain);
        }
        for (uri, record) in &changes.records {
            let source = changes.source.unwrap();
            self.records
                .insert(uri.clone(), Record::of(*record, source));
        }
        for (did, repo) in &changes.repos {
            self.repos.insert((*did).to_owned(), repo.clone());
        }
        self.repos
            .retain(|did, _| !changes.untracked.contains(did.as_str()));
        for id in &changes.replayed {
            self.parked.remove(id);
        }
        self.parked
            .retain(|_, parked| !changes.unparked_repos.contains(parked.did.as_str()));
        for parked in &changes.parked {
            let update = parked.update;
            self.last_id += 1;
            let parked = Parked {
                did: update.did.to_string(),
                seq: update.seq,
                frame: update.frame.clone(),
            };
            self.parked.insert(self.last_id, parked);
        }
        for gap in &changes.gaps {
            self.gaps.retain(|known| known.id != gap.id);
            self.last_id += 1;
            let id = gap.id.or(Some(self.last_id));
            self.gaps.push(GapRow { id, ..gap.clone() });
        }
        for row in &changes.breaks.changed {
            self.breaks.insert(row.did.clone(), row.clone());
        }
        self.breaks
            .retain(|did, _| !changes.breaks.forgotten.contains(did));
        for (fingerprint, _) in &changes.dead_letters {
            assert!(
                self.dead_letters.insert(*fingerprint),
                "the dead letter is stored twice"
            );
        }
    }
}

impl Record {
    fn of(row: RecordRow<'_>, source: &SourceId) -> Self {
        let version = row.write.version();
        let judged = row.write.judged();
        Self {
            did: version.did.to_string(),
            rev: version.rev.to_string(),
            source: source.as_str().to_owned(),
            seq: version.seq,
            time: sortable(version.time),
            cid: match row.write {
                RecordWrite::Delete(_) | RecordWrite::Refuse(_) => None,
                RecordWrite::Upsert(upsert) => Some(upsert.cid.to_string()),
            },
            judged: judged.map(|(cid, judgement)| (cid.to_string(), judgement)),
            verified: row.verified,
        }
    }
}
