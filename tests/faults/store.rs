//! A store in memory that fails as its schedule says, and that looks at every commit whether the
//! cursor leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;

use huddle_firehose::queue::effect::{Effect, Gap, RecordVersion};
use huddle_firehose::source::{Position, SourceId};
use huddle_firehose::store::{
    CrashHistory, FrameDigest, Purged, Retention, Store, StoreError, StoredCursor, WriteBatch,
    Written,
};

use crate::model::{Model, Tables};
use crate::schedule::{Schedule, StoreFault};

pub(crate) struct ModelStore {
    model: Arc<Model>,
    schedule: Arc<Schedule>,
    state: Mutex<State>,
    position: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    cursor: Position,
    status_as_of: BTreeMap<String, (Timestamp, u64)>,
    handle_as_of: BTreeMap<String, (Timestamp, u64)>,
    removed_at: BTreeMap<String, Timestamp>,
    oddities: Vec<String>,
}

impl ModelStore {
    pub(crate) fn new(model: Arc<Model>, schedule: Arc<Schedule>) -> Self {
        Self {
            model,
            schedule,
            state: Mutex::default(),
            position: watch::Sender::new(0),
        }
    }

    pub(crate) fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Returns once the cursor has come to `seq`.
    pub(crate) async fn reaches(&self, seq: u64) {
        let mut position = self.position.subscribe();
        position
            .wait_for(|position| *position >= seq)
            .await
            .unwrap();
    }

    /// What is not as the model has it.
    pub(crate) fn differences(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let mut differences = state.oddities.clone();
        let expected = self.model.behind(self.model.last_seq());
        if state.tables != expected {
            differences.push(format!("{:#?} is not {expected:#?}", state.tables));
        }
        if state.cursor.seq != self.model.last_seq() {
            differences.push(format!("the cursor stands at {:?}", state.cursor));
        }
        differences
    }

    fn commit(&self, batch: &WriteBatch<'_>) {
        let mut state = self.state.lock().unwrap();
        for effect in batch.effects {
            state.apply(effect);
        }
        if batch.position.seq > state.cursor.seq {
            state.cursor = batch.position;
        }
        let cursor = state.cursor.seq;
        let expected = self.model.behind(cursor);
        // Tables may be ahead of the cursor where a transaction was applied whose answer was lost.
        // They may never be behind it.
        for (uri, (rev, _)) in &expected.records {
            let has = state.tables.records.get(uri).map(|(rev, _)| rev);
            let did = uri.split('/').nth(2).unwrap();
            if has.is_none_or(|has| has < rev) && !state.removed_at.contains_key(did) {
                state
                    .oddities
                    .push(format!("the cursor leads: {cursor} without {uri} at {rev}"));
            }
        }
        drop(state);
        self.position.send_replace(cursor);
    }
}

impl State {
    fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Upsert(upsert) => {
                self.put(&upsert.version, Some(upsert.cid.to_string()));
            }
            Effect::Delete(delete) => self.put(&delete.version, None),
            Effect::Account(change) => {
                let did = change.did.to_string();
                if change.is_deletion() {
                    self.tables.forget(&did);
                    self.removed_at.insert(did.clone(), change.time);
                }
                let as_of = (change.time, change.seq);
                if self
                    .status_as_of
                    .get(&did)
                    .is_none_or(|before| as_of > *before)
                {
                    self.status_as_of.insert(did.clone(), as_of);
                    self.tables
                        .statuses
                        .insert(did, (change.active, change.status.clone()));
                }
            }
            Effect::Identity(change) => {
                let did = change.did.to_string();
                let as_of = (change.time, change.seq);
                if self
                    .handle_as_of
                    .get(&did)
                    .is_none_or(|before| as_of > *before)
                {
                    self.handle_as_of.insert(did.clone(), as_of);
                    let handle = change.handle.clone().unwrap();
                    self.tables.handles.insert(did, handle);
                }
            }
            Effect::DeadLetter(letter) => {
                self.oddities.push(format!("a dead letter: {letter:?}"));
            }
            Effect::Gap(gap) => self.oddities.push(format!("a gap: {gap:?}")),
        }
    }

    fn put(&mut self, version: &RecordVersion, cid: Option<String>) {
        let removed_at = self.removed_at.get(version.did.as_str());
        if removed_at.is_some_and(|removed_at| version.time <= *removed_at) {
            return;
        }
        let (uri, rev) = (version.uri(), version.rev.to_string());
        let is_newer = self
            .tables
            .records
            .get(&uri)
            .is_none_or(|(before, _)| rev > *before);
        if is_newer {
            self.tables.records.insert(uri, (rev, cid));
        }
    }
}

impl Store for ModelStore {
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            match self.schedule.strike_store() {
                None => self.commit(batch),
                Some(StoreFault::CommittedUnseen) => {
                    self.commit(batch);
                    return Err(StoreError::Deadline);
                }
                Some(StoreFault::CommittedWithoutAnswer) => {
                    self.commit(batch);
                    return std::future::pending().await;
                }
                Some(StoreFault::Hangs) => return std::future::pending().await,
                Some(StoreFault::Refused) => return Err(StoreError::Deadline),
            }
            Ok(Written::default())
        }
        .boxed()
    }

    fn load_cursor<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>> {
        let position = self.state.lock().unwrap().cursor;
        async move {
            Ok(StoredCursor {
                position,
                is_new: position.seq == 0,
                follows_another: false,
            })
        }
        .boxed()
    }

    fn move_cursor<'a>(
        &'a self,
        _source: &'a SourceId,
        position: Position,
        _gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        panic!("nobody asked for {position:?}");
    }

    fn count_open_gaps<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        async { Ok(0) }.boxed()
    }

    fn begin_run<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>> {
        async { Ok(CrashHistory::default()) }.boxed()
    }

    fn mark_in_hand<'a>(
        &'a self,
        _source: &'a SourceId,
        _frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn forget_crashes<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn purge<'a>(&'a self, _retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        async { Ok(Purged::default()) }.boxed()
    }
}
