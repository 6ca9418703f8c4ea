//! The store in a SQLite file: one writer connection, and a small pool of readers.

mod account_status;
mod apply;
mod audit;
mod backup;
mod changed_records;
mod changes;
mod check;
mod commands;
mod commit;
mod crashes;
mod cursor;
mod cursor_marks;
mod discoveries;
mod due;
mod error;
mod feed;
mod feed_marks;
mod feed_page;
mod gaps;
mod handles;
mod identities;
mod identity_imports;
mod inspect;
mod interest;
mod jobs;
mod letters;
mod lexicon_views;
mod lists;
mod moments;
mod multi_row;
mod open;
mod parked;
mod parked_counts;
mod pauses;
mod projections;
mod purge;
mod read;
mod recognise;
mod records;
mod rejudge;
mod removal;
mod repo_report;
mod resync_history;
mod run_time_settings;
mod script;
mod sink_positions;
mod wal;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use sqlx::SqlitePool;
use tokio::time::timeout;

pub use self::account_status::AccountStatus;
pub use self::apply::Progress;
pub use self::audit::PAGE;
pub use self::backup::{Backup, BackupError};
pub use self::check::Checked;
pub use self::commands::Cancelled;
pub(super) use self::error::remedy;
pub use self::identity_imports::ImportProgress;
pub use self::inspect::{CollectionCount, Counts, CursorRow, OpenGap, ResyncRow};
pub use self::lexicon_views::ViewChanges;
pub use self::lists::{GapRow, RepoListRow};
pub use self::moments::{News, Seen};
pub use self::open::{Access, Options, check, path_of};
pub use self::repo_report::RepoSummary;
use self::script::Script;
use self::writer::Writer;
use super::datetime::sortable;
use super::handle_store::{HandleStore, UncheckedPage};
use super::identity_store::IdentityStore;
use super::rejudge_store::{RejudgeStore, Selection, StoredPage};
use super::repo_store::{
    Discovery, DueHandle, DueRepo, Held, HeldRange, JobKey, JobKind, ParkedCommit, RecentResyncs,
    Reconciled, RepoChange, RepoStore, Search, SuspectedJob, UnconfirmedStatus,
};
use super::{
    Adoption, CrashHistory, FrameDigest, KeptLetters, OpenGapCounts, PieceLimit, Purged,
    RemovalPiece, Retention, Store, StoreError, StoredCursor, WriteBatch, Written,
};
use crate::atproto::syntax::Did;
use crate::identity::{IdentityChange, StoredIdentity};
use crate::model::{Gap, Judgement, Position, RepoCounts, SourceId, Trips};
use crate::store::plan::InterestSet;

/// The deadline of a query or a transaction about repositories.
const REPO_DEADLINE: Duration = Duration::from_secs(15);

/// A SQLite file with all migrations applied.
///
/// Two processes may have the same file open, and SQLite coordinates their writes. But only one of
/// them may be a worker, because each assumes that the cursor is its own.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    reader: SqlitePool,
}

impl SqliteStore {
    /// Opens the file that `url` names (`sqlite://path`), creates it if it is missing, and runs the
    /// migrations that it lacks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the URL names no file or the file can't be opened,
    /// [`StoreError::Corrupt`] if its migrations are not those of this version.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(url, Options::default()).await
    }

    /// Like [`Self::open`], with other [`Options`].
    pub async fn open_with(url: &str, options: Options) -> Result<Self, StoreError> {
        open::open(url, options).await
    }

    /// Read-only connections, for the status page and the command line.
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

    /// Checks whether the database accepts a transaction now: takes the write lock, writes a page,
    /// and rolls back. It waits for a running transaction. A full disk is noticed only at a commit.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        cursor::touch(&mut transaction).await?;
        transaction.rollback().await
    }

    /// The set of interest in force; `None` if no worker has run on this database.
    pub async fn interest_in_force(&self) -> Result<Option<InterestSet>, StoreError> {
        interest::in_force(self).await
    }

    async fn load_cursor_of(&self, source: &SourceId) -> Result<StoredCursor, StoreError> {
        let mut script = Script::default();
        cursor::push_claim(&mut script, source);
        let (mut transaction, _answers) = self.writer.begin_with(script).await?;
        let cursor = cursor::load(&mut transaction, source).await?;
        transaction.commit().await?;
        Ok(cursor)
    }
}

impl Store for SqliteStore {
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        Box::pin(apply::apply(&self.writer, batch))
    }

    fn apply_group<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        Box::pin(apply::apply_group(&self.writer, batch))
    }

    fn adopt_interest<'a>(
        &'a self,
        source: &'a SourceId,
        set: &'a InterestSet,
    ) -> BoxFuture<'a, Result<Adoption, StoreError>> {
        Box::pin(interest::adopt(&self.writer, source, set))
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
        Box::pin(apply::move_cursor(
            &self.writer,
            source,
            position,
            gap,
            None,
        ))
    }

    fn count_open_gaps<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<OpenGapCounts, StoreError>> {
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

    fn drop_piece(&self, limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(parked::drop_piece(self, limit))
    }

    fn number_piece(&self, limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(feed::number_piece(self, limit))
    }

    fn group_piece(&self, limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(letters::group_piece(self, limit))
    }

    fn remove_piece(
        &self,
        limit: PieceLimit,
    ) -> BoxFuture<'_, Result<Option<RemovalPiece>, StoreError>> {
        Box::pin(apply::remove_piece(&self.writer, limit))
    }

    fn count_removals(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(removal::count(self))
    }

    fn purge<'a>(&'a self, retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        Box::pin(purge::purge(&self.writer, retention))
    }

    fn trim_letters(&self, retention: Retention) -> BoxFuture<'_, Result<KeptLetters, StoreError>> {
        Box::pin(purge::trim_letters(self, retention))
    }

    fn log_bytes(&self) -> u64 {
        self.writer.wal_bytes()
    }

    fn trips(&self) -> Trips {
        self.writer.trips()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.close())
    }
}

impl IdentityStore for SqliteStore {
    fn load_identities(
        &self,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredIdentity>, StoreError>> {
        timely(identities::load(self, limit))
    }

    fn save_identities<'a>(
        &'a self,
        take: &'a (dyn Fn() -> Vec<IdentityChange> + Send + Sync),
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        timely(identities::save(&self.writer, take))
    }

    fn trim_identities(&self, capacity: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        timely(identities::trim(&self.writer, capacity))
    }
}

impl RepoStore for SqliteStore {
    fn tracked_behind<'a>(
        &'a self,
        did: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        timely(due::tracked_behind(self, did))
    }

    fn due(
        &self,
        kind: JobKind,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueRepo>, StoreError>> {
        timely(due::due(self, kind, now, limit))
    }

    fn change<'a>(&'a self, change: RepoChange<'a>) -> BoxFuture<'a, Result<Written, StoreError>> {
        timely(apply::change(&self.writer, change, None))
    }

    fn recheck_sample(&self, count: u32) -> BoxFuture<'_, Result<u64, StoreError>> {
        timely(due::recheck_sample(self, count))
    }

    fn resyncs_since<'a>(
        &'a self,
        did: &'a Did,
        since: Timestamp,
    ) -> BoxFuture<'a, Result<RecentResyncs, StoreError>> {
        timely(resync_history::since(self, did, since))
    }

    fn held<'a>(&'a self, range: HeldRange<'a>) -> BoxFuture<'a, Result<Vec<Held>, StoreError>> {
        timely(resync_history::held(self, range))
    }

    fn parked_lengths<'a>(
        &'a self,
        did: &'a Did,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<usize>, StoreError>> {
        timely(due::parked_lengths(self, did, limit))
    }

    fn parked<'a>(
        &'a self,
        did: &'a Did,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ParkedCommit>, StoreError>> {
        timely(due::parked(self, did, limit))
    }

    fn bytes_awaiting_directory(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        timely(parked_counts::bytes_awaiting_directory(self))
    }

    fn reconcile_gaps(&self, now: Timestamp) -> BoxFuture<'_, Result<Reconciled, StoreError>> {
        Box::pin(gaps::reconcile(self, now))
    }

    fn unconfirmed(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<UnconfirmedStatus>, StoreError>> {
        timely(account_status::unconfirmed(self, now, limit))
    }

    fn due_handles(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DueHandle>, StoreError>> {
        timely(account_status::due_handles(self, now, limit))
    }

    fn begin_discovery<'a>(
        &'a self,
        searches: &'a [Search],
        anew: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(discoveries::begin(self, searches, anew, None))
    }

    fn note_failed_page<'a>(
        &'a self,
        search: &'a Search,
        error: &'a str,
        is_unsupported: bool,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(discoveries::note_failed_page(
            &self.writer,
            search,
            error,
            is_unsupported,
        ))
    }

    fn discoveries(&self) -> BoxFuture<'_, Result<Vec<Discovery>, StoreError>> {
        timely(discoveries::all(self))
    }

    fn begin_jobs(&self) -> BoxFuture<'_, Result<Vec<SuspectedJob>, StoreError>> {
        timely(jobs::begin(&self.writer))
    }

    fn note_jobs<'a>(
        &'a self,
        started: &'a [JobKey],
        ended: &'a [JobKey],
        cleared: &'a [JobKey],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(jobs::note(&self.writer, started, ended, cleared))
    }

    fn set_aside<'a>(
        &'a self,
        job: &'a JobKey,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        timely(jobs::set_aside(&self.writer, job, until))
    }

    fn end_jobs(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        timely(jobs::end(&self.writer))
    }

    fn repo_counts(&self) -> BoxFuture<'_, Result<RepoCounts, StoreError>> {
        timely(discoveries::counts(self))
    }
}

impl HandleStore for SqliteStore {
    fn unchecked_handles<'a>(
        &'a self,
        after: &'a str,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<UncheckedPage, StoreError>> {
        timely(handles::unchecked(self, after, now, limit))
    }
}

impl RejudgeStore for SqliteStore {
    fn stored<'a>(
        &'a self,
        selection: &'a Selection,
        after: &'a str,
        limit: PieceLimit,
    ) -> BoxFuture<'a, Result<StoredPage<String>, StoreError>> {
        timely(rejudge::stored(self, selection, after, limit))
    }

    fn refused<'a>(
        &'a self,
        selection: &'a Selection,
        after: i64,
        limit: PieceLimit,
    ) -> BoxFuture<'a, Result<StoredPage<i64>, StoreError>> {
        timely(rejudge::refused(self, selection, after, limit))
    }

    fn kept_collections(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(rejudge::kept_collections(self))
    }

    fn restart_reprocessings(&self, rules: Judgement) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(rejudge::restart_reprocessings(self, rules))
    }

    fn compare_rules<'a>(
        &'a self,
        rules: &'a [(String, Judgement)],
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        Box::pin(rejudge::compare_rules(self, rules))
    }

    fn note_rules<'a>(
        &'a self,
        rules: &'a [(String, Judgement)],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(rejudge::note_rules(self, rules))
    }
}

/// Limits work on repositories to its deadline. A transaction that exceeds it may be committed all
/// the same.
fn timely<'a, T: Send + 'a>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
) -> BoxFuture<'a, Result<T, StoreError>> {
    let within_deadline = timeout(REPO_DEADLINE, work);
    Box::pin(async { within_deadline.await.unwrap_or(Err(StoreError::Deadline)) })
}

/// The current time, for the columns that record when a row was written. No guard depends on it.
fn now() -> String {
    sortable(Timestamp::now())
}

/// A count that a hand may have edited: a number that is none must not make the row unreadable, and
/// there is room to count on.
fn count(number: i64) -> u32 {
    u32::try_from(number.clamp(0, i64::from(i32::MAX))).unwrap_or_default()
}

/// Converts `number` to SQLite's integer. No seq reaches 2^63: the protocol limits them to 2^53.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
