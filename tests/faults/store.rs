//! A store in memory that fails by its schedule, and audits each commit.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use huddle_firehose::model::{Gap, Position, SourceId};
use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::{
    Adoption, CrashHistory, FrameDigest, OpenGapCounts, PieceLimit, Purged, RemovalPiece,
    Retention, Store, StoreError, StoredCursor, WriteBatch, Written,
};

use crate::audit::Audit;
use crate::schedule::{Schedule, StoreFault};
use crate::tables::Tables;

pub(crate) struct ModelStore {
    schedule: Arc<Schedule>,
    state: Mutex<State>,
    position: watch::Sender<u64>,
}

struct State {
    tables: Tables,
    runs: Runs,
    audit: Audit,
}

/// How the earlier lives of the process ended.
#[derive(Default)]
struct Runs {
    unfinished: u32,
    in_hand: Option<FrameDigest>,
    suspects: BTreeMap<FrameDigest, u32>,
}

impl ModelStore {
    pub(crate) fn new(schedule: Arc<Schedule>, audit: Audit) -> Self {
        Self {
            schedule,
            state: Mutex::new(State {
                tables: Tables::default(),
                runs: Runs::default(),
                audit,
            }),
            position: watch::Sender::new(0),
        }
    }

    pub(crate) fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until the cursor is at `seq`.
    pub(crate) async fn stands_at(&self, seq: u64) {
        let mut position = self.position.subscribe();
        let stands_there = position.wait_for(|position| *position == seq);
        stands_there.await.expect("the store is here");
    }

    /// The differences to the network, when the relay has sent everything.
    pub(crate) fn differences(&self) -> Vec<String> {
        let State { tables, audit, .. } = &mut *self.state();
        audit.conclude(tables)
    }

    fn commit(&self, batch: &WriteBatch<'_>) {
        let State { tables, audit, .. } = &mut *self.state();
        tables.apply(batch);
        audit.note_commit(tables);
        self.position.send_replace(tables.cursor.seq);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with the lock")
    }

    /// Runs an operation, or fails as the schedule decides.
    async fn act<T>(&self, act: impl FnOnce() -> T) -> Result<T, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        match self.schedule.strike_store() {
            None => Ok(act()),
            Some(StoreFault::CommittedUnseen) => {
                act();
                Err(StoreError::Deadline)
            }
            Some(StoreFault::CommittedWithoutAnswer) => {
                act();
                pending().await
            }
            Some(StoreFault::Hangs) => pending().await,
            Some(StoreFault::Refused) => Err(StoreError::Deadline),
        }
    }
}

impl Runs {
    fn begin(&mut self) -> CrashHistory {
        if let Some(frame) = self.in_hand.take() {
            *self.suspects.entry(frame).or_default() += 1;
        }
        let crashes = self.unfinished;
        self.unfinished += 1;
        CrashHistory {
            crashes,
            suspects: self.suspects.clone(),
        }
    }
}

impl Store for ModelStore {
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let apply = || {
            self.commit(batch);
            Written::default()
        };
        self.act(apply).boxed()
    }

    fn adopt_interest<'a>(
        &'a self,
        _source: &'a SourceId,
        _set: &'a InterestSet,
    ) -> BoxFuture<'a, Result<Adoption, StoreError>> {
        async { Ok(Adoption::Unchanged) }.boxed()
    }

    fn load_cursor<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>> {
        let load = || {
            let State { tables, .. } = &*self.state();
            StoredCursor {
                position: tables.cursor,
                is_new: !tables.is_known,
                follows: None,
            }
        };
        self.act(load).boxed()
    }

    fn move_cursor<'a>(
        &'a self,
        _source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let move_cursor = move || {
            self.state().tables.move_cursor(position, gap);
            self.position.send_replace(position.seq);
        };
        self.act(move_cursor).boxed()
    }

    fn count_open_gaps<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<OpenGapCounts, StoreError>> {
        async {
            Ok(OpenGapCounts {
                all: self.state().tables.gaps.len() as u64,
                ..OpenGapCounts::default()
            })
        }
        .boxed()
    }

    fn begin_run<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>> {
        self.act(|| self.state().runs.begin()).boxed()
    }

    fn mark_in_progress<'a>(
        &'a self,
        _source: &'a SourceId,
        frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act(move || self.state().runs.in_hand = frame).boxed()
    }

    fn forget_crashes<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act(|| self.state().runs = Runs::default()).boxed()
    }

    fn drop_piece(&self, _limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        async { Ok(false) }.boxed()
    }

    fn remove_piece(
        &self,
        _limit: PieceLimit,
    ) -> BoxFuture<'_, Result<Option<RemovalPiece>, StoreError>> {
        async { Ok(None) }.boxed()
    }

    fn log_bytes(&self) -> u64 {
        0
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn count_removals(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        async { Ok(0) }.boxed()
    }

    fn purge<'a>(&'a self, _retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        async { Ok(Purged::default()) }.boxed()
    }
}
