//! The store in a SQLite file: one writer connection, and a small pool of readers.

mod accounts;
mod apply;
mod crashes;
mod cursor;
mod dead_letters;
mod discoveries;
mod due;
mod error;
mod gaps;
mod inspect;
mod multi_row;
mod open;
mod parked;
mod projections;
mod purge;
mod records;
mod repos;
mod resync;
mod unconfirmed;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use sqlx::SqlitePool;
use tokio::time::timeout;

pub use self::inspect::{CollectionCount, Counts, CursorRow, OpenGap, ResyncRow};
pub use self::open::Options;
use self::writer::Writer;
use super::datetime::sortable;
use super::repos::{
    Discovery, DiscoveryPage, DueRepo, Held, HeldRange, HostStatus, JobKind, ParkedCommit,
    RecentResyncs, Reconciled, Replayed, RepoCounts, RepoStore, Resync, SnapshotPart,
    UnconfirmedStatus,
};
use super::{
    CrashHistory, FrameDigest, Purged, Retention, Store, StoreError, StoredCursor, WriteBatch,
    Written,
};
use crate::atproto::syntax::{Did, Nsid};
use crate::model::{Position, SourceId};
use crate::store::plan::effect::{Effect, Gap};

/// How long a question about repositories may take, and a transaction.
const REPO_DEADLINE: Duration = Duration::from_secs(15);

/// A SQLite file, its tables brought up to date.
///
/// Two processes may hold the same file open, and SQLite keeps them apart, but only one of them
/// should be a worker: each believes that the cursor is its own.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    reader: SqlitePool,
}

impl SqliteStore {
    /// Opens the file that `url` names (`sqlite://path`), creates it where there is none, and runs
    /// the migrations that it lacks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the URL names no file or the file can't be opened,
    /// [`StoreError::Corrupt`] where its migrations are not those of this version.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(url, Options::default()).await
    }

    /// Like [`Self::open`], with other [`Options`].
    pub async fn open_with(url: &str, options: Options) -> Result<Self, StoreError> {
        open::open(url, options).await
    }

    /// Connections that can't write, for the status page and the command line.
    pub fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// The folder that the file is in.
    pub fn folder(&self) -> PathBuf {
        let folder = self.writer.path().parent().unwrap_or(Path::new(""));
        match folder.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => folder.to_owned(),
        }
    }

    /// Whether the database would take a transaction now: takes the write lock, touches a page, and
    /// rolls back. Waits for a transaction that is under way. A full disk shows only at a commit.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        cursor::touch(&mut transaction).await?;
        transaction.rollback().await
    }

    async fn load_cursor_of(&self, source: &SourceId) -> Result<StoredCursor, StoreError> {
        let mut transaction = self.writer.begin().await?;
        cursor::predecessor(&mut transaction, source).await?;
        let cursor = cursor::load(&mut transaction, source).await?;
        transaction.commit().await?;
        Ok(cursor)
    }

    async fn move_cursor_of(
        &self,
        source: &SourceId,
        position: Position,
        gap: Option<&Gap>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        cursor::predecessor(&mut transaction, source).await?;
        cursor::place(&mut transaction, source, position).await?;
        if let Some(gap) = gap {
            gaps::open(&mut transaction, source, gap, &now()).await?;
        }
        transaction.commit().await
    }
}

impl Store for SqliteStore {
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        Box::pin(apply::apply(&self.writer, batch))
    }

    fn load_cursor<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>> {
        Box::pin(self.load_cursor_of(source))
    }

    fn move_cursor<'a>(
        &'a self,
        source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.move_cursor_of(source, position, gap))
    }

    fn count_open_gaps<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.count_open_gaps_of(source))
    }

    fn begin_run<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>> {
        Box::pin(crashes::begin_run(&self.writer, source))
    }

    fn mark_in_progress<'a>(
        &'a self,
        source: &'a SourceId,
        frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(crashes::mark_in_progress(&self.writer, source, frame))
    }

    fn forget_crashes<'a>(&'a self, source: &'a SourceId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(crashes::forget(&self.writer, source))
    }

    fn purge<'a>(&'a self, retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        Box::pin(purge::purge(&self.writer, retention))
    }
}

impl RepoStore for SqliteStore {
    fn tracked(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(due::tracked(self))
    }

    fn due(
        &self,
        urgency: JobKind,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueRepo>, StoreError>> {
        timely(due::due(self, urgency, now, limit))
    }

    fn desynchronize<'a>(
        &'a self,
        did: &'a Did,
        cause: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(due::desynchronize(&self.writer, did, cause))
    }

    fn resyncs_since<'a>(
        &'a self,
        did: &'a Did,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<RecentResyncs, StoreError>> {
        timely(resync::since(self, did, since))
    }

    fn begin_resync<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(resync::begin(&self.writer, did))
    }

    fn held<'a>(&'a self, range: HeldRange<'a>) -> BoxFuture<'a, Result<Vec<Held>, StoreError>> {
        timely(resync::held(self, range))
    }

    fn write_snapshot<'a>(
        &'a self,
        part: &'a SnapshotPart<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        timely(resync::write_snapshot(&self.writer, part))
    }

    fn end_resync<'a>(&'a self, resync: &'a Resync) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(resync::end(&self.writer, resync))
    }

    fn first_parked<'a>(
        &'a self,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Option<ParkedCommit>, StoreError>> {
        timely(parked::first(self, did))
    }

    fn replay_parked<'a>(
        &'a self,
        waiting: &'a ParkedCommit,
        effects: &'a [Effect],
    ) -> BoxFuture<'a, Result<Replayed, StoreError>> {
        timely(parked::settle(&self.writer, waiting, effects))
    }

    fn finish_replay<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(parked::finish(&self.writer, did))
    }

    fn retry_later<'a>(
        &'a self,
        did: &'a Did,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(due::retry_later(&self.writer, did, until))
    }

    fn reschedule<'a>(
        &'a self,
        did: &'a Did,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(due::reschedule(&self.writer, did, until))
    }

    fn suspend_until_active<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(due::suspend_until_active(&self.writer, did))
    }

    fn untrack<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(due::untrack(&self.writer, did))
    }

    fn finish_recheck<'a>(&'a self, repo: &'a DueRepo) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(due::finish_recheck(&self.writer, repo))
    }

    fn reconcile_gaps(&self) -> BoxFuture<'_, Result<Reconciled, StoreError>> {
        Box::pin(gaps::reconcile(self))
    }

    fn unconfirmed(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<UnconfirmedStatus>, StoreError>> {
        timely(unconfirmed::all(self, now, limit))
    }

    fn report_inactive<'a>(
        &'a self,
        did: &'a Did,
        status: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(unconfirmed::report_inactive(&self.writer, did, status))
    }

    fn confirm_status<'a>(
        &'a self,
        unconfirmed: &'a UnconfirmedStatus,
        host_status: &'a HostStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(unconfirmed::settle(&self.writer, unconfirmed, host_status))
    }

    fn begin_discovery<'a>(
        &'a self,
        collections: &'a [Nsid],
        anew: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(discoveries::begin(&self.writer, collections, anew))
    }

    fn note_failed_page<'a>(
        &'a self,
        collection: &'a Nsid,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(discoveries::note_failed_page(
            &self.writer,
            collection,
            error,
        ))
    }

    fn discoveries(&self) -> BoxFuture<'_, Result<Vec<Discovery>, StoreError>> {
        timely(discoveries::all(self))
    }

    fn note_page<'a>(
        &'a self,
        page: &'a DiscoveryPage<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(discoveries::note_page(&self.writer, page))
    }

    fn repo_counts(&self) -> BoxFuture<'_, Result<RepoCounts, StoreError>> {
        timely(discoveries::counts(self))
    }
}

/// Nobody who sees to repositories waits for ever. What was asked may have been done all the same.
fn timely<'a, T: Send + 'a>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
) -> BoxFuture<'a, Result<T, StoreError>> {
    let within_deadline = timeout(REPO_DEADLINE, work);
    Box::pin(async { within_deadline.await.unwrap_or(Err(StoreError::Deadline)) })
}

/// The clock of the columns that say when something was written. No guard depends on it.
fn now() -> String {
    sortable(Timestamp::now())
}

/// `number` as SQLite has it. No seq reaches 2^63: the protocol ends them at 2^53.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
