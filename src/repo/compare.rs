//! Makes the tables equal to a fetched repository.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Repositories;
use super::fetch::{FetchError, FetchFailure, Fetched};
use crate::atproto::event::{Change, Commit, Event, PutAction, RecordOp};
use crate::atproto::syntax::{Did, Nsid, RecordKey};
use crate::atproto::verify::Level;
use crate::model::{Resynced, SourceId};
use crate::repo::snapshot::{Snapshot, SnapshotError};
use crate::store::StoreError;
use crate::store::plan::Moment;
use crate::store::plan::effect::{Effect, RecordChange, writing_bytes};
use crate::store::repo_store::{Held, HeldRange, RepoChange, SnapshotPart};

/// Records that are compared at a time, and written by one transaction.
const PART: usize = 500;
/// The bytes of records after which a part is read and written.
const PART_BYTES: usize = 1 << 20;

type Part = Vec<(String, Cid)>;

/// A path and its change; `None` is a deletion.
type PathChange = (String, Option<(PutAction, Cid)>);

/// Writes the differences between the tables and the repository, part by part. If it fails half
/// way, the parts that were written are correct.
pub(super) async fn write(
    repositories: &Repositories,
    did: &Did,
    fetched: &Fetched,
) -> Result<Resynced, FetchFailure> {
    let commit = &fetched.snapshot.commit;
    let mut comparison = Comparison {
        repositories,
        did,
        fetched,
        source: SourceId::new(fetched.host.url.as_str()),
        moment: Moment::at(Timestamp::now()),
        done: Resynced {
            rev: commit.rev.to_string(),
            data: commit.data.to_string(),
            time: fetched.as_of,
            created: 0,
            updated: 0,
            deleted: 0,
            unchanged: 0,
            missing: 0,
            bytes: fetched.bytes,
        },
    };
    let mut parts = parts_of(repositories, &fetched.snapshot);
    let mut after = String::new();
    while let Some(part) = parts.recv().await {
        let part = part.map_err(FetchError::from)?;
        let Some((through, _)) = part.last().cloned() else {
            continue;
        };
        comparison.compare(&after, Some(&through), part).await?;
        after = through;
    }
    comparison.compare(&after, None, Part::new()).await?;
    Ok(comparison.done)
}

/// The wanted records of a repository. They are read on a blocking thread, because the spool is on
/// disk.
fn parts_of(
    repositories: &Repositories,
    snapshot: &Arc<Snapshot>,
) -> mpsc::Receiver<Result<Part, SnapshotError>> {
    let (parts, receiver) = mpsc::channel(1);
    let interest = repositories.interest().clone();
    let snapshot = Arc::clone(snapshot);
    spawn_blocking(move || {
        let wants = |collection: &str| interest.wants_collection(collection);
        let mut part = Part::new();
        for record in snapshot.records(wants) {
            match record {
                Ok(record) => part.push(record),
                Err(error) => {
                    // The receiver may have stopped.
                    let _unsent = parts.blocking_send(Err(error));
                    return;
                }
            }
            if part.len() >= PART && parts.blocking_send(Ok(std::mem::take(&mut part))).is_err() {
                return;
            }
        }
        let _unsent = parts.blocking_send(Ok(part));
    });
    receiver
}

struct Comparison<'a> {
    repositories: &'a Repositories,
    did: &'a Did,
    fetched: &'a Fetched,
    source: SourceId,
    moment: Moment,
    done: Resynced,
}

impl Comparison<'_> {
    /// Compares the paths after `after`, up to `through`. The repository has `part` there.
    async fn compare(
        &mut self,
        after: &str,
        through: Option<&str>,
        part: Part,
    ) -> Result<(), FetchFailure> {
        let mut wanted: BTreeMap<String, Cid> = part.into_iter().collect();
        let mut after = after.to_owned();
        let (mut changes, mut confirmed) = (Vec::new(), Vec::new());
        loop {
            let range = HeldRange {
                did: self.did,
                after: &after,
                through,
                limit: PART,
            };
            let held = self.repositories.store.held(range).await?;
            let is_last = held.len() < PART;
            if let Some(last) = held.last() {
                after.clone_from(&last.path);
            }
            for held in held {
                self.compare_row(&held, &mut wanted, &mut changes, &mut confirmed);
            }
            if is_last {
                break;
            }
            self.flush(&mut changes, &mut confirmed).await?;
        }
        let creates = wanted.into_iter();
        changes.extend(creates.map(|(path, cid)| (path, Some((PutAction::Create, cid)))));
        self.flush(&mut changes, &mut confirmed).await
    }

    /// Compares a row with the record that the repository has at its path.
    fn compare_row(
        &mut self,
        held: &Held,
        wanted: &mut BTreeMap<String, Cid>,
        changes: &mut Vec<PathChange>,
        confirmed: &mut Vec<String>,
    ) {
        let collection = held.path.split('/').next().unwrap_or_default();
        if !self.repositories.interest().wants_collection(collection) {
            return;
        }
        let found = wanted.remove(&held.path);
        // Only what is proven can be newer than the repository, which is proven itself.
        let is_proven = held.is_proven && self.moment.can_be_proven(&held.rev);
        let is_later = held.rev > self.done.rev;
        let rules = &self.repositories.processor.rules;
        let is_judged_anew = held.judgement != Some(rules.judgement_of(collection));
        // If the host has lost the record's block, the row stays as it was judged.
        let is_held = found.map(|cid| cid.to_string()) == held.cid;
        let is_lost = |cid: &Cid| self.fetched.snapshot.lacks(cid);
        if is_judged_anew && is_held && found.as_ref().is_some_and(is_lost) {
            self.done.unchanged += 1;
            return;
        }
        match (found, &held.cid) {
            (Some(cid), known)
                if known.as_ref().or(held.refused_cid.as_ref()) == Some(&cid.to_string())
                    && !is_judged_anew
                    && (is_proven || !is_later) =>
            {
                self.done.unchanged += 1;
                confirmed.push(held.path.clone());
            }
            _ if is_proven && is_later => self.done.unchanged += 1,
            (Some(cid), Some(_)) => {
                changes.push((held.path.clone(), Some((PutAction::Update, cid))));
            }
            (Some(cid), None) => {
                changes.push((held.path.clone(), Some((PutAction::Create, cid))));
            }
            (None, Some(_)) => changes.push((held.path.clone(), None)),
            (None, None) => {}
        }
    }

    async fn flush(
        &mut self,
        changes: &mut Vec<PathChange>,
        confirmed: &mut Vec<String>,
    ) -> Result<(), FetchFailure> {
        let mut changes = VecDeque::from(std::mem::take(changes));
        let mut confirmed = std::mem::take(confirmed);
        while !changes.is_empty() || !confirmed.is_empty() {
            let snapshot = Arc::clone(&self.fetched.snapshot);
            let read = spawn_blocking(move || read(&snapshot, changes)).await;
            let (ops, rest) = read.map_err(|_| FetchError::ReaderPanicked)??;
            changes = rest;
            self.write_ops(ops, &std::mem::take(&mut confirmed)).await?;
        }
        Ok(())
    }

    async fn write_ops(
        &mut self,
        ops: Vec<RecordOp>,
        confirmed: &[String],
    ) -> Result<(), FetchFailure> {
        let actions: BTreeMap<String, Option<PutAction>> = ops
            .iter()
            .map(|op| (format!("{}/{}", op.collection, op.rkey), action(op)))
            .collect();
        let is_broken = |op: &&RecordOp| matches!(op.change, Change::Broken { .. });
        self.done.missing += ops.iter().filter(is_broken).count() as u64;
        let effects = self.effects_of(ops);
        let budget = &self.repositories.budget;
        let _work = budget.reserve_work(writing_bytes(&effects)).await;
        match self.write(&effects, confirmed).await {
            Err(StoreError::Rejected(rejections)) => {
                let effects = Effect::without_refused(effects, &self.source, rejections);
                self.write(&effects, confirmed).await?;
                self.count(&effects, &actions);
                self.repositories.note_dead_letters(&effects);
            }
            written => {
                written?;
                self.count(&effects, &actions);
                self.repositories.note_dead_letters(&effects);
            }
        }
        Ok(())
    }

    /// Counts the changes. A refused record is not a change, even if it is fetched again.
    fn count(&mut self, effects: &[Effect], actions: &BTreeMap<String, Option<PutAction>>) {
        let commits = effects.iter().filter_map(|effect| match effect {
            Effect::Commit(commit) => Some(commit),
            _ => None,
        });
        for record in commits.flat_map(|commit| &commit.records) {
            let Some(version) = record.version() else {
                continue;
            };
            let path = format!("{}/{}", version.collection, version.rkey);
            match (record, actions.get(&path)) {
                (RecordChange::Upsert(_), Some(Some(PutAction::Create))) => self.done.created += 1,
                (RecordChange::Upsert(_), _) => self.done.updated += 1,
                (_, Some(None)) => self.done.deleted += 1,
                _ => {}
            }
        }
    }

    async fn write(&self, effects: &[Effect], confirmed: &[String]) -> Result<(), StoreError> {
        let part = SnapshotPart {
            source: &self.source,
            did: self.did,
            effects,
            confirmed,
        };
        let change = RepoChange::Snapshot(&part);
        self.repositories.store.change(change).await?;
        Ok(())
    }

    fn effects_of(&self, ops: Vec<RecordOp>) -> Vec<Effect> {
        let signed = &self.fetched.snapshot.commit;
        let commit = Commit {
            seq: 0,
            did: self.did.clone(),
            rev: signed.rev.clone(),
            since: None,
            time: self.fetched.as_of,
            commit: self.fetched.snapshot.cid,
            data: signed.data,
            prev_data: None,
            ops,
            misnamed: Vec::new(),
        };
        let event = Event::Commit(Box::new(commit));
        self.repositories
            .processor
            .effects_of_verified(event, Some(Level::Chain))
    }
}

/// Reads records up to `PART_BYTES`. Returns the remaining changes too.
fn read(
    snapshot: &Snapshot,
    mut changes: VecDeque<PathChange>,
) -> Result<(Vec<RecordOp>, VecDeque<PathChange>), SnapshotError> {
    let (mut ops, mut bytes) = (Vec::new(), 0);
    while bytes < PART_BYTES
        && let Some((path, put)) = changes.pop_front()
    {
        let op = op(snapshot, &path, put)?;
        bytes += op.as_ref().map_or(0, record_bytes);
        ops.extend(op);
    }
    Ok((ops, changes))
}

fn record_bytes(op: &RecordOp) -> usize {
    match &op.change {
        Change::Put { record, .. } | Change::Broken { record, .. } => record.len(),
        Change::Delete | Change::Missing { .. } => 0,
    }
}

fn action(op: &RecordOp) -> Option<PutAction> {
    match op.change {
        Change::Put { action, .. } => Some(action),
        Change::Delete | Change::Missing { .. } | Change::Broken { .. } => None,
    }
}

/// Returns the operation that makes a row equal to the repository; `None` if the path names no
/// record.
fn op(
    snapshot: &Snapshot,
    path: &str,
    put: Option<(PutAction, Cid)>,
) -> Result<Option<RecordOp>, SnapshotError> {
    let (collection, rkey) = path.split_once('/').unwrap_or_default();
    let (Ok(collection), Ok(rkey)) = (Nsid::parse(collection), RecordKey::parse(rkey)) else {
        return Ok(None);
    };
    let change = match put {
        None => Change::Delete,
        Some((action, cid)) => match snapshot.record(&cid) {
            Ok(record) => Change::Put {
                action,
                cid,
                record,
            },
            // The rest of the repository is as good as without it.
            Err(error @ (SnapshotError::RecordMissing(_) | SnapshotError::RecordSize { .. })) => {
                Change::Broken {
                    reason: error.to_string(),
                    record: Bytes::new(),
                }
            }
            Err(error) => return Err(error),
        },
    };
    Ok(Some(RecordOp {
        collection,
        rkey,
        change,
    }))
}
