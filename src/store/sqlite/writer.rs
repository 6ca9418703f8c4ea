//! The only connection that writes.
//!
//! A transaction takes the connection out of its slot and puts it back only after a clean end. In
//! every other case (an error, or a future that was dropped between any two lines) the connection
//! is closed. SQLite then rolls back, and the next transaction opens a new connection. So no
//! transaction can stay open unnoticed, and a broken connection is replaced by itself.

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{Mutex, MutexGuard, watch};

use super::error::is_refusal;
use super::feed;
use super::script::{Answers, Script};
use super::wal::Wal;
use crate::model::Trips;
use crate::store::StoreError;
use crate::testing::fault::{Faults, Injected, Point};

/// Keeps statement journals in memory. Before a statement of many rows changes a page, SQLite saves
/// the page, in case the statement fails half way. In a file, which is the default, this takes as
/// long as the commit. In memory it is bounded by the rows of a batch. A migration may sort whole
/// tables, so migrations run before this is set.
const JOURNAL_IN_MEMORY: &str = "PRAGMA temp_store = MEMORY";

#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    file: FileIdentity,
    wal: Wal,
    faults: Faults,
    counts: Counts,
    /// This process has begun its epoch of the change feed.
    has_epoch: AtomicBool,
    commits: watch::Sender<u64>,
    idle: Mutex<Option<SqliteConnection>>,
}

/// The transactions and trips so far.
#[derive(Debug, Default)]
struct Counts {
    transactions: AtomicU64,
    trips: AtomicU64,
}

impl Counts {
    fn note_transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    fn note_trip(&self) {
        self.trips.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs `script`, in as few trips as its length allows.
    async fn send(
        &self,
        script: Script,
        connection: &mut SqliteConnection,
    ) -> Result<Answers, sqlx::Error> {
        let mut answers = Answers::new();
        for trip in script.into_trips() {
            self.note_trip();
            answers.extend(trip.run(connection).await?);
        }
        Ok(answers)
    }
}

/// A transaction that holds the write lock. Dropping it rolls back.
pub(super) struct Transaction<'a> {
    connection: SqliteConnection,
    slot: MutexGuard<'a, Option<SqliteConnection>>,
    faults: &'a Faults,
    counts: &'a Counts,
    has_epoch: &'a AtomicBool,
    commits: &'a watch::Sender<u64>,
}

impl Writer {
    /// Connects, and runs the migrations through `prepare`.
    pub(super) async fn open(
        options: SqliteConnectOptions,
        busy_timeout: Duration,
        faults: Faults,
        prepare: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let mut connection = options.connect().await?;
        prepare(&mut connection).await?;
        connection.execute(JOURNAL_IN_MEMORY).await?;
        Ok(Self {
            file: FileIdentity::of(options.get_filename())?,
            wal: Wal::of(options.get_filename(), busy_timeout),
            // If the file disappears, an empty file in its place would silently lose data.
            options: options.create_if_missing(false),
            faults,
            counts: Counts::default(),
            has_epoch: AtomicBool::new(false),
            commits: watch::Sender::default(),
            idle: Mutex::new(Some(connection)),
        })
    }

    /// A writer for a file that is only read. Its transactions fail.
    pub(super) fn read_only(
        options: SqliteConnectOptions,
        busy_timeout: Duration,
        faults: Faults,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            file: FileIdentity::of(options.get_filename())?,
            wal: Wal::of(options.get_filename(), busy_timeout),
            options: options.read_only(true),
            faults,
            counts: Counts::default(),
            has_epoch: AtomicBool::new(false),
            commits: watch::Sender::default(),
            idle: Mutex::new(None),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.options.get_filename()
    }

    /// The size of the write-ahead log.
    pub(super) fn wal_bytes(&self) -> u64 {
        self.wal.bytes()
    }

    pub(super) fn trips(&self) -> Trips {
        Trips {
            transactions: self.counts.transactions.load(Ordering::Relaxed),
            trips: self.counts.trips.load(Ordering::Relaxed),
        }
    }

    /// Changes with each transaction.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Empties the write-ahead log and closes the connection. A later transaction opens another one.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let mut slot = self.idle.lock().await;
        if let Some(mut connection) = slot.take() {
            let _unless_read = self.wal.empty(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }

    /// A connection beside the writer's, for what takes long.
    pub(super) async fn another_connection(&self) -> Result<SqliteConnection, StoreError> {
        self.check_file()?;
        Ok(self.options.connect().await?)
    }

    /// Waits for the previous transaction, then for the database's write lock.
    pub(super) async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let (transaction, _answers) = self.begin_with(Script::default()).await?;
        Ok(transaction)
    }

    /// Begins a transaction and runs `script` in it, in the same trip unless faults are planned. The
    /// first one of the process also begins its epoch of the change feed.
    pub(super) async fn begin_with(
        &self,
        script: Script,
    ) -> Result<(Transaction<'_>, Answers), StoreError> {
        let mut slot = self.idle.lock().await;
        self.check_file()?;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.options.connect().await?;
                connection.execute(JOURNAL_IN_MEMORY).await?;
                connection
            }
        };
        self.wal.limit(&mut connection).await?;
        // A deferred transaction that writes later can fail in a way that the busy timeout does not
        // cover.
        let mut begin = Script::default();
        begin.push("BEGIN IMMEDIATE", []);
        let begins_epoch = !self.has_epoch.load(Ordering::Relaxed);
        let script = match begins_epoch {
            true => feed::begin_epoch().followed_by(script),
            false => script,
        };
        let (begin, rest) = match self.faults.are_planned() {
            true => (begin, script),
            false => (begin.followed_by(script), Script::default()),
        };
        self.counts.note_transaction();
        let begun = self.counts.send(begin, &mut connection).await?;
        let mut answers: Answers = begun.into_iter().skip(1).collect();
        let mut transaction = Transaction {
            connection,
            slot,
            faults: &self.faults,
            counts: &self.counts,
            has_epoch: &self.has_epoch,
            commits: &self.commits,
        };
        transaction.pass(Point::StoreBegun).await?;
        answers.extend(transaction.run(rest).await?);
        if begins_epoch {
            answers.remove(0);
        }
        Ok((transaction, answers))
    }

    /// SQLite continues to write to a file that was deleted or replaced, where the data is lost. A
    /// file that was put in its place has a cursor of its own, and the next batch would move it
    /// past events that the new file never got. Both end with a restart, which reads the new
    /// cursor.
    fn check_file(&self) -> Result<(), StoreError> {
        if FileIdentity::of(self.options.get_filename())? == self.file {
            return Ok(());
        }
        let reason = "the database file was replaced while it was open; restart to take it up";
        Err(sqlx::Error::Io(io::Error::other(reason)).into())
    }
}

impl Transaction<'_> {
    /// Runs `script` in one trip. If faults are planned, its statements are sent one by one, and
    /// each of them may fail.
    pub(super) async fn run(&mut self, script: Script) -> Result<Answers, sqlx::Error> {
        if !self.faults.are_planned() {
            return self.counts.send(script, &mut self.connection).await;
        }
        let mut answers = Answers::new();
        for statement in script.into_single() {
            self.pass(Point::StoreWriting).await?;
            answers.extend(self.counts.send(statement, &mut self.connection).await?);
        }
        Ok(answers)
    }

    /// Runs `script` and commits, in the same trip unless faults are planned. If this future is
    /// dropped, the transaction may be durable all the same. If `script` is refused, the
    /// transaction is rolled back.
    pub(super) async fn commit_with(self, script: Script) -> Result<(), Failure> {
        let ends_by_itself = self.faults.are_planned();
        let script = match ends_by_itself {
            true => script,
            false => {
                let mut commit = Script::default();
                commit.push("COMMIT", []);
                script.followed_by(commit)
            }
        };
        let (mut transaction, _answers) = self.run_or_roll_back(script).await?;
        match ends_by_itself {
            true => transaction.commit().await?,
            false => {
                transaction.note_commit();
                *transaction.slot = Some(transaction.connection);
            }
        }
        Ok(())
    }

    /// Runs `script`, and goes on. If `script` is refused, the transaction is rolled back.
    pub(super) async fn run_or_roll_back(
        mut self,
        script: Script,
    ) -> Result<(Self, Answers), Failure> {
        match self.run(script).await {
            Ok(answers) => Ok((self, answers)),
            Err(error) if is_refusal(&error) => {
                self.rollback().await?;
                Err(Failure::Refused(error))
            }
            Err(error) => Err(Failure::Store(error.into())),
        }
    }

    /// Commits. If this future is dropped, the transaction may be durable all the same.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.pass(Point::StoreCommitting).await?;
        let (faults, has_epoch, commits) = (self.faults, self.has_epoch, self.commits);
        self.end("COMMIT").await?;
        note_commit(has_epoch, commits);
        Ok(faults.pass_without_actor(Point::StoreCommitted).await?)
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        self.end("ROLLBACK").await
    }

    fn note_commit(&self) {
        note_commit(self.has_epoch, self.commits);
    }

    pub(super) async fn pass(&self, point: Point) -> Result<(), Injected> {
        self.faults.pass_without_actor(point).await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), StoreError> {
        self.counts.note_trip();
        self.connection.execute(statement).await?;
        *self.slot = Some(self.connection);
        Ok(())
    }
}

/// Tells those that follow the change feed that there may be more of it.
fn note_commit(has_epoch: &AtomicBool, commits: &watch::Sender<u64>) {
    has_epoch.store(true, Ordering::Relaxed);
    commits.send_modify(|commits| *commits += 1);
}

impl Deref for Transaction<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

/// Each use is a statement that is sent by itself.
impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.counts.note_trip();
        &mut self.connection
    }
}

/// Why a commit failed, as far as is known.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database refuses the script, and would refuse it again.
    Refused(sqlx::Error),
    Store(StoreError),
}

impl Failure {
    /// The error of a script that holds no effects, so that none of them can be at fault.
    pub(super) fn into_store(self) -> StoreError {
        match self {
            Self::Refused(error) => error.into(),
            Self::Store(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Distinguishes a file from another one with the same name.
#[derive(Debug, PartialEq, Eq)]
struct FileIdentity {
    #[cfg(unix)]
    device_and_inode: (u64, u64),
}

impl FileIdentity {
    fn of(path: &Path) -> Result<Self, sqlx::Error> {
        let metadata = std::fs::metadata(path)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Ok(Self {
                device_and_inode: (metadata.dev(), metadata.ino()),
            })
        }
        // On other systems an open file cannot be replaced.
        #[cfg(not(unix))]
        {
            let _ = metadata;
            Ok(Self {})
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::model::{Position, SourceId};
    use crate::store::plan::effect::{AccountChange, Effect};
    use crate::store::sqlite::{Options, SqliteStore};
    use crate::store::{Store, WriteBatch};
    use crate::testing::fault::{Fault, FaultPlan, Faults, Point};

    /// Injects no fault, and counts the points.
    #[derive(Default)]
    struct Counting {
        writing: AtomicU32,
        committing: AtomicU32,
    }

    impl FaultPlan for Counting {
        fn strike(&self, point: Point) -> Option<Fault> {
            match point {
                Point::StoreWriting => self.writing.fetch_add(1, Ordering::SeqCst),
                Point::StoreCommitting => self.committing.fetch_add(1, Ordering::SeqCst),
                _ => 0,
            };
            None
        }
    }

    /// Drops the future between any two statements of a transaction, and before its commit.
    #[tokio::test]
    async fn where_faults_are_planned_every_statement_of_a_script_can_fail() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let plan = Arc::new(Counting::default());
        let options = Options {
            faults: Faults::planned(plan.clone()),
            ..Options::default()
        };
        let store = SqliteStore::open_with(&url, options).await.unwrap();
        let source = SourceId::new("wss://relay.example");
        let mut passed = Vec::new();
        for seq in 1..=2 {
            let account = Effect::Account(AccountChange {
                did: crate::atproto::syntax::Did::parse("did:plc:alice").unwrap(),
                active: false,
                status: Some("deleted".to_owned()),
                is_unconfirmed: false,
                wants_history: false,
                seq,
                time: jiff::Timestamp::from_second(seq as i64).unwrap(),
            });
            let effects = if seq == 1 { vec![] } else { vec![account] };
            let batch = WriteBatch {
                source: &source,
                effects: &effects,
                position: Position { seq, time: None },
                sequence_restarted: false,
            };
            store.apply(&batch).await.unwrap();
            passed.push(plan.writing.swap(0, Ordering::SeqCst));
        }
        // One statement reads. The first batch begins the epoch of the feed, gives the source its row and
        // moves the cursor. The second moves the cursor, removes an account, drops its parked commits,
        // gives numbers of the feed, and reads which rows of the account can be deleted.
        assert_eq!(passed, [1 + 1 + 1 + 3, 1 + 1 + 13]);
        assert_eq!(plan.committing.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_a_statement_may_have_to_undo_is_in_memory_on_every_connection() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        // After a dropped transaction, the next one begins on another connection.
        for _ in 0..2 {
            let mut transaction = store.writer.begin().await.unwrap();
            let temp_store: i64 = sqlx::query_scalar("PRAGMA temp_store")
                .fetch_one(&mut *transaction)
                .await
                .unwrap();
            // 2 is MEMORY.
            assert_eq!(temp_store, 2);
            drop(transaction);
        }
    }
}
