//! Makes the tables equal to a repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Repositories;
use super::fetch::{FetchError, FetchFailure, Fetched};
use crate::actors::{Context, examination};
use crate::protocol::event::{Change, Commit, Event, PutAction, RecordOp};
use crate::protocol::syntax::{Did, Nsid, RecordKey};
use crate::protocol::verify::Level;
use crate::queue::effect::Effect;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::source::SourceId;
use crate::store::StoreError;
use crate::store::repos::{Held, HeldRange, Resynced, SnapshotPart};

/// So many records are compared at a time.
const PART: usize = 100;

type Part = Vec<(String, Cid)>;

/// Writes what in the tables is another way than in the repository, part by part. Where it breaks off,
/// what was written is right all the same.
pub(super) async fn write(
    context: &Context,
    repositories: &Repositories,
    did: &Did,
    fetched: &Fetched,
) -> Result<Resynced, FetchFailure> {
    let commit = &fetched.snapshot.commit;
    let mut comparison = Comparison {
        context,
        repositories,
        did,
        fetched,
        source: SourceId::new(fetched.host.url.as_str()),
        done: Resynced {
            rev: commit.rev.to_string(),
            data: commit.data.to_string(),
            time: fetched.as_of,
            created: 0,
            updated: 0,
            deleted: 0,
            unchanged: 0,
            bytes: fetched.bytes,
        },
    };
    let mut parts = parts_of(context, &fetched.snapshot);
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

/// The records of a repository that are wanted, read on a thread that may wait for the disk.
fn parts_of(
    context: &Context,
    snapshot: &Arc<Snapshot>,
) -> mpsc::Receiver<Result<Part, SnapshotError>> {
    let (parts, receiver) = mpsc::channel(1);
    let interest = context.rules.interest.clone();
    let snapshot = Arc::clone(snapshot);
    spawn_blocking(move || {
        let wants = |collection: &str| interest.wants_collection(collection);
        let mut part = Part::new();
        for record in snapshot.records(wants) {
            match record {
                Ok(record) => part.push(record),
                Err(error) => {
                    // Whoever compares may have gone.
                    let _gone = parts.blocking_send(Err(error));
                    return;
                }
            }
            if part.len() >= PART && parts.blocking_send(Ok(std::mem::take(&mut part))).is_err() {
                return;
            }
        }
        let _gone = parts.blocking_send(Ok(part));
    });
    receiver
}

struct Comparison<'a> {
    context: &'a Context,
    repositories: &'a Repositories,
    did: &'a Did,
    fetched: &'a Fetched,
    source: SourceId,
    done: Resynced,
}

impl Comparison<'_> {
    /// Compares the paths behind `after`, up to `through`, of which the repository has `part`.
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
                self.judge(&held, &mut wanted, &mut changes, &mut confirmed);
            }
            if is_last {
                break;
            }
            self.flush(&mut changes, &mut confirmed).await?;
        }
        for (path, cid) in wanted {
            self.done.created += 1;
            changes.push((path, Some((PutAction::Create, cid))));
        }
        self.flush(&mut changes, &mut confirmed).await
    }

    /// Holds a row against what the repository has on its path.
    fn judge(
        &mut self,
        held: &Held,
        wanted: &mut BTreeMap<String, Cid>,
        changes: &mut Vec<(String, Option<(PutAction, Cid)>)>,
        confirmed: &mut Vec<String>,
    ) {
        let collection = held.path.split('/').next().unwrap_or_default();
        if !self.context.rules.interest.wants_collection(collection) {
            return;
        }
        let found = wanted.remove(&held.path);
        // What was said of a record at this rev is as good as what the repository says.
        let is_settled = held.rev >= self.done.rev;
        match (found, &held.cid) {
            (Some(cid), Some(known)) if cid.to_string() == *known => {
                self.done.unchanged += 1;
                confirmed.push(held.path.clone());
            }
            _ if is_settled => self.done.unchanged += 1,
            (Some(cid), Some(_)) => {
                self.done.updated += 1;
                changes.push((held.path.clone(), Some((PutAction::Update, cid))));
            }
            (Some(cid), None) => {
                self.done.created += 1;
                changes.push((held.path.clone(), Some((PutAction::Create, cid))));
            }
            (None, Some(_)) => {
                self.done.deleted += 1;
                changes.push((held.path.clone(), None));
            }
            (None, None) => {}
        }
    }

    async fn flush(
        &mut self,
        changes: &mut Vec<(String, Option<(PutAction, Cid)>)>,
        confirmed: &mut Vec<String>,
    ) -> Result<(), FetchFailure> {
        let (changes, confirmed) = (std::mem::take(changes), std::mem::take(confirmed));
        let effects = self.effects_of(changes).await?;
        if effects.is_empty() && confirmed.is_empty() {
            return Ok(());
        }
        match self.write(&effects, &confirmed).await {
            Err(StoreError::Rejected(rejections)) => {
                let effects = Effect::without_refused(effects, &self.source, rejections);
                Ok(self.write(&effects, &confirmed).await?)
            }
            written => Ok(written?),
        }
    }

    async fn write(&self, effects: &[Effect], confirmed: &[String]) -> Result<(), StoreError> {
        let part = SnapshotPart {
            source: &self.source,
            did: self.did,
            effects,
            confirmed,
        };
        self.repositories.store.write_snapshot(&part).await?;
        Ok(())
    }

    async fn effects_of(
        &self,
        changes: Vec<(String, Option<(PutAction, Cid)>)>,
    ) -> Result<Vec<Effect>, FetchFailure> {
        let snapshot = Arc::clone(&self.fetched.snapshot);
        let ops = spawn_blocking(move || {
            let ops = changes
                .into_iter()
                .map(|(path, put)| op(&snapshot, &path, put));
            ops.collect::<Result<Vec<_>, _>>()
        });
        let ops = ops.await.map_err(|_| FetchError::BrokenOff)??;
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
            ops: ops.into_iter().flatten().collect(),
            misnamed: Vec::new(),
        };
        let event = Event::Commit(Box::new(commit));
        Ok(examination::believed(
            self.context,
            event,
            Some(Level::Chain),
        ))
    }
}

/// The operation that makes a row what the repository says; none where the path names no record.
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
            Err(error @ SnapshotError::RecordSize { .. }) => Change::Broken {
                reason: error.to_string(),
                record: Bytes::new(),
            },
            Err(error) => return Err(error),
        },
    };
    Ok(Some(RecordOp {
        collection,
        rkey,
        change,
    }))
}
