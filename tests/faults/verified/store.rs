//! A SQLite file that fails by its schedule, and audits each commit.

use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::model::{Gap, Position, RepoCounts, SourceId};
use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::repo_store::{
    Discovery, DueHandle, DueRepo, HandleAnswer, Held, HeldRange, HostStatus, JobKey, JobKind,
    ParkedCommit, RecentResyncs, Reconciled, RepoChange, RepoEvent, RepoStore, Search,
    SuspectedJob, UnconfirmedStatus,
};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::store::{
    Adoption, CrashHistory, FrameDigest, OpenGapCounts, PieceLimit, Purged, RemovalPiece,
    Retention, Store, StoreError, StoredCursor, WriteBatch, Written,
};

use super::audit::{self, Audit, Shown, Tables};
use crate::schedule::{Schedule, StoreFault};

/// The tables of one life of the process.
pub(crate) struct FaultyStore {
    pub(crate) store: SqliteStore,
    schedule: Arc<Schedule>,
    audit: Arc<Mutex<Audit>>,
    position: watch::Sender<u64>,
    passed: Arc<Passed>,
    begun: Instant,
}

/// The sum of the paused time of earlier lives.
#[derive(Default)]
pub(crate) struct Passed(Mutex<Duration>);

impl Passed {
    pub(crate) fn add(&self, life: Duration) {
        *self.0.lock().unwrap() += life;
    }
}

/// Stops the paused clock while SQLite's own threads work.
async fn standing_still<T>(work: impl Future<Output = T>) -> T {
    let (_held, let_go) = oneshot::channel::<()>();
    let _holder = tokio::task::spawn_blocking(move || {
        // Dropping the sender is the signal.
        let _let_go = let_go.blocking_recv();
    });
    work.await
}

impl FaultyStore {
    pub(crate) async fn open(
        file: &Path,
        schedule: Arc<Schedule>,
        audit: Arc<Mutex<Audit>>,
        passed: Arc<Passed>,
    ) -> Self {
        let url = format!("sqlite://{}", file.display());
        let opened = standing_still(SqliteStore::open(&url)).await;
        let store = opened.unwrap();
        let cursors = standing_still(store.cursors()).await.unwrap();
        let position = cursors.first().map_or(0, |cursor| cursor.position.seq);
        Self {
            store,
            schedule,
            audit,
            position: watch::Sender::new(position),
            passed,
            begun: Instant::now(),
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

    /// Whether work is left, now or later.
    pub(crate) async fn has_work(&self) -> bool {
        let accounts = self.audit.lock().unwrap().accounts();
        standing_still(audit::has_work(&self.store, &accounts)).await
    }

    /// Runs an operation, or fails as the schedule decides.
    async fn act<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        match self.schedule.strike_store() {
            None => standing_still(asked).await,
            Some(StoreFault::CommittedUnseen) => {
                standing_still(asked).await?;
                Err(StoreError::Deadline)
            }
            Some(StoreFault::CommittedWithoutAnswer) => {
                standing_still(asked).await?;
                pending().await
            }
            Some(StoreFault::Hangs) => pending().await,
            Some(StoreFault::Refused) => Err(StoreError::Deadline),
        }
    }

    /// The same, but always with an answer: the real store has a deadline for calls about
    /// repositories.
    async fn act_soon<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        match self.schedule.strike_store() {
            None => standing_still(asked).await,
            Some(StoreFault::CommittedUnseen | StoreFault::CommittedWithoutAnswer) => {
                standing_still(asked).await?;
                Err(StoreError::Deadline)
            }
            Some(StoreFault::Hangs | StoreFault::Refused) => Err(StoreError::Deadline),
        }
    }

    async fn commit(&self, batch: &WriteBatch<'_>) -> Result<Written, StoreError> {
        let written = self.store.apply(batch).await?;
        self.note_position(batch.source).await;
        Ok(written)
    }

    async fn note_position(&self, source: &SourceId) {
        let cursor = self.store.load_cursor(source).await.unwrap();
        let tables = Tables::read(&self.store, cursor.position).await;
        self.audit.lock().unwrap().note_commit(&tables);
        self.position.send_replace(cursor.position.seq);
    }

    /// The wall clock, if it had advanced like the paused clocks.
    fn on_the_wall(&self, now: Timestamp) -> Timestamp {
        let passed = *self.passed.0.lock().unwrap() + self.begun.elapsed();
        now.saturating_add(SignedDuration::try_from(passed).unwrap())
            .unwrap()
    }

    /// The same change, with its times to wait until converted to the wall clock.
    async fn change_on_the_wall(&self, change: RepoChange<'_>) -> Result<Written, StoreError> {
        let change = match change {
            RepoChange::Repo {
                did,
                event: RepoEvent::EndResync(resync),
            } => {
                let mut resync = resync.clone();
                if let Err(failure) = &mut resync.outcome {
                    failure.retry_at = self.on_the_wall(failure.retry_at);
                }
                let event = RepoEvent::EndResync(&resync);
                return self.store.change(RepoChange::Repo { did, event }).await;
            }
            RepoChange::HostAnswered {
                unconfirmed,
                answer: HostStatus::Unknown(until),
            } => {
                let answer = &HostStatus::Unknown(self.on_the_wall(*until));
                let change = RepoChange::HostAnswered {
                    unconfirmed,
                    answer,
                };
                return self.store.change(change).await;
            }
            RepoChange::HandleAnswered {
                due,
                answer: HandleAnswer::Unknown(until),
            } => {
                let answer = &HandleAnswer::Unknown(self.on_the_wall(*until));
                let change = RepoChange::HandleAnswered { due, answer };
                return self.store.change(change).await;
            }
            RepoChange::Repo { did, event } => {
                let event = match event {
                    RepoEvent::Suspend { until } => RepoEvent::Suspend {
                        until: self.on_the_wall(until),
                    },
                    RepoEvent::RetryLater { until, waits_for } => RepoEvent::RetryLater {
                        until: self.on_the_wall(until),
                        waits_for,
                    },
                    RepoEvent::Reschedule { until, waits_for } => RepoEvent::Reschedule {
                        until: self.on_the_wall(until),
                        waits_for,
                    },
                    event => event,
                };
                RepoChange::Repo { did, event }
            }
            change => change,
        };
        self.store.change(change).await
    }

    /// Reads the tables.
    pub(crate) async fn show(&self) -> Shown {
        standing_still(Shown::read(&self.store)).await
    }
}

impl Store for FaultyStore {
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.act(self.commit(batch)).boxed()
    }

    fn adopt_interest<'a>(
        &'a self,
        source: &'a SourceId,
        set: &'a InterestSet,
    ) -> BoxFuture<'a, Result<Adoption, StoreError>> {
        self.act(self.store.adopt_interest(source, set)).boxed()
    }

    fn load_cursor<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>> {
        self.act(self.store.load_cursor(source)).boxed()
    }

    fn move_cursor<'a>(
        &'a self,
        source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let moved = async move {
            self.store.move_cursor(source, position, gap).await?;
            self.note_position(source).await;
            Ok(())
        };
        self.act(moved).boxed()
    }

    fn count_open_gaps<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<OpenGapCounts, StoreError>> {
        self.act(self.store.count_open_gaps(source)).boxed()
    }

    fn begin_run<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>> {
        self.act(self.store.begin_run(source)).boxed()
    }

    fn mark_in_progress<'a>(
        &'a self,
        source: &'a SourceId,
        frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act(self.store.mark_in_progress(source, frame)).boxed()
    }

    fn forget_crashes<'a>(&'a self, source: &'a SourceId) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act(self.store.forget_crashes(source)).boxed()
    }

    fn drop_piece(&self, limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.act(self.store.drop_piece(limit)).boxed()
    }

    fn remove_piece(
        &self,
        limit: PieceLimit,
    ) -> BoxFuture<'_, Result<Option<RemovalPiece>, StoreError>> {
        self.act(self.store.remove_piece(limit)).boxed()
    }

    fn log_bytes(&self) -> u64 {
        self.store.log_bytes()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // The store of a run serves the next one too.
        async { Ok(()) }.boxed()
    }

    fn count_removals(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.act(self.store.count_removals()).boxed()
    }

    fn purge<'a>(&'a self, retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        self.act(self.store.purge(retention)).boxed()
    }
}

impl RepoStore for FaultyStore {
    fn tracked_behind<'a>(
        &'a self,
        did: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        self.act_soon(self.store.tracked_behind(did)).boxed()
    }

    fn due(
        &self,
        kind: JobKind,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueRepo>, StoreError>> {
        let now = self.on_the_wall(now);
        self.act_soon(self.store.due(kind, now, limit)).boxed()
    }

    fn resyncs_since<'a>(
        &'a self,
        did: &'a Did,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<RecentResyncs, StoreError>> {
        self.act_soon(self.store.resyncs_since(did, since)).boxed()
    }

    fn change<'a>(&'a self, change: RepoChange<'a>) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.act_soon(self.change_on_the_wall(change)).boxed()
    }

    fn held<'a>(&'a self, range: HeldRange<'a>) -> BoxFuture<'a, Result<Vec<Held>, StoreError>> {
        self.act_soon(self.store.held(range)).boxed()
    }

    fn parked_lengths<'a>(
        &'a self,
        did: &'a Did,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<usize>, StoreError>> {
        self.act_soon(self.store.parked_lengths(did, limit)).boxed()
    }

    fn parked<'a>(
        &'a self,
        did: &'a Did,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedCommit>, StoreError>> {
        self.act_soon(self.store.parked(did, limit)).boxed()
    }

    fn bytes_awaiting_directory(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.act_soon(self.store.bytes_awaiting_directory()).boxed()
    }

    fn reconcile_gaps(&self, now: Timestamp) -> BoxFuture<'_, Result<Reconciled, StoreError>> {
        let now = self.on_the_wall(now);
        self.act_soon(self.store.reconcile_gaps(now)).boxed()
    }

    fn unconfirmed(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<UnconfirmedStatus>, StoreError>> {
        let now = self.on_the_wall(now);
        self.act_soon(self.store.unconfirmed(now, limit)).boxed()
    }

    fn due_handles(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueHandle>, StoreError>> {
        let now = self.on_the_wall(now);
        self.act_soon(self.store.due_handles(now, limit)).boxed()
    }

    fn begin_discovery<'a>(
        &'a self,
        searches: &'a [Search],
        anew: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act_soon(self.store.begin_discovery(searches, anew))
            .boxed()
    }

    fn note_failed_page<'a>(
        &'a self,
        search: &'a Search,
        error: &'a str,
        is_unsupported: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act_soon(self.store.note_failed_page(search, error, is_unsupported))
            .boxed()
    }

    fn discoveries(&self) -> BoxFuture<'_, Result<Vec<Discovery>, StoreError>> {
        self.act_soon(self.store.discoveries()).boxed()
    }

    fn begin_jobs(&self) -> BoxFuture<'_, Result<Vec<SuspectedJob>, StoreError>> {
        self.act_soon(self.store.begin_jobs()).boxed()
    }

    fn note_jobs<'a>(
        &'a self,
        started: &'a [JobKey],
        ended: &'a [JobKey],
        cleared: &'a [JobKey],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act_soon(self.store.note_jobs(started, ended, cleared))
            .boxed()
    }

    fn set_aside<'a>(
        &'a self,
        job: &'a JobKey,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.act_soon(self.store.set_aside(job, until)).boxed()
    }

    fn end_jobs(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.act_soon(self.store.end_jobs()).boxed()
    }

    fn repo_counts(&self) -> BoxFuture<'_, Result<RepoCounts, StoreError>> {
        self.act_soon(self.store.repo_counts()).boxed()
    }
}
