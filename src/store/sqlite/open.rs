//! Opens the database file.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor, SqlitePool};

use super::recognise::{Contents, has_wal, recognise};
use super::writer::Writer;
use super::{SqliteStore, lexicon_views, wal};
use crate::store::StoreError;
use crate::testing::fault::{Faults, Point};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The writer's page cache in KiB. A negative number means KiB to SQLite. The pages of one long record
/// fill it, beside the copies of the record itself.
const WRITER_CACHE_KIB: &str = "-4096";

/// Rows that are buffered before the database's thread waits for their reader. All are read into memory
/// anyway.
const READ_ROWS: usize = 1024;

/// Prepared scripts that the writer keeps, by their whole text. Which tables a transaction writes decides
/// on its text, the number of rows does not: a steady load has a handful of scripts.
const SCRIPTS: usize = 64;

/// Options that differ from [`SqliteStore::open`].
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a transaction waits for another process's write lock before it is `Unavailable`.
    pub busy_timeout: Duration,
    /// Pages that the WAL may hold before a checkpoint copies them into the file. SQLite's default
    /// of 1000 halves the write rate; 10 000 pages are 40 MB on disk.
    pub checkpoint_pages: u32,
    /// What may be done with the file.
    pub access: Access,
    /// Empty, except in tests.
    pub faults: Faults,
    /// The most connections that read at the same time.
    pub readers: u32,
}

/// What may be done with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Create it if it is missing, migrate it, and write.
    Create,
    /// Migrate it, and write.
    Migrate,
    /// Write to it as it is, because a worker has it open.
    Write,
    /// Only read it. The folder may be read-only.
    Read,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            checkpoint_pages: 10_000,
            access: Access::Create,
            faults: Faults::default(),
            readers: 4,
        }
    }
}

pub(super) async fn open(url: &str, options: Options) -> Result<SqliteStore, StoreError> {
    let Options {
        busy_timeout,
        checkpoint_pages,
        access,
        faults,
        readers,
    } = options;
    let file = SqliteConnectOptions::from_str(url)?
        .busy_timeout(busy_timeout)
        .foreign_keys(false);
    if is_in_memory(url) {
        let reason = "the database must be a file: a database in memory would lose the cursor";
        return Err(sqlx::Error::Configuration(reason.into()).into());
    }
    let path = file.get_filename().to_owned();
    let contents = recognise(&path, &MIGRATIONS).await?;
    match (access, contents) {
        (Access::Create, _)
        | (Access::Migrate, Contents::Ours { .. })
        | (Access::Write | Access::Read, Contents::Ours { is_current: true }) => {}
        (Access::Write | Access::Read, Contents::Ours { is_current: false }) => {
            return Err(StoreError::Older(path));
        }
        (_, Contents::Nothing) => return Err(StoreError::Missing(path)),
    }
    if access == Access::Read {
        let file = readable(file).await?;
        return Ok(SqliteStore {
            writer: Writer::read_only(file.clone(), busy_timeout, faults)?,
            reader: reader(file, readers, busy_timeout),
        });
    }
    // NORMAL does not wait for the disk at each commit. A power loss may take the last
    // transactions, each of them whole, cursor and rows together. What is left is an earlier state
    // of the same file, from which the source is read again. tests/pipeline/power_loss.rs has the
    // model.
    let writing = file
        .clone()
        .row_buffer_size(READ_ROWS)
        .statement_cache_capacity(SCRIPTS)
        .create_if_missing(access == Access::Create)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("wal_autocheckpoint", checkpoint_pages.to_string())
        .pragma("journal_size_limit", wal::LIMIT.to_string())
        .pragma("cache_size", WRITER_CACHE_KIB);

    let is_current = matches!(contents, Contents::Ours { is_current: true });
    let writer = Writer::open(writing, busy_timeout, faults.clone(), async |connection| {
        if !is_current {
            lexicon_views::drop_all(connection).await?;
        }
        migrate(connection, &faults).await
    })
    .await?;
    Ok(SqliteStore {
        writer,
        reader: reader(file, readers, busy_timeout),
    })
}

/// How to read the file. In a folder where SQLite cannot make its files, it can be read only as one
/// that does not change, and only if nothing of it is in a WAL.
async fn readable(file: SqliteConnectOptions) -> Result<SqliteConnectOptions, StoreError> {
    let file = file.create_if_missing(false).read_only(true);
    let attempt = async {
        let mut connection = file.connect().await?;
        let read = connection
            .execute("SELECT count(*) FROM sqlite_master")
            .await;
        connection.close().await?;
        read
    };
    match attempt.await {
        Err(_) if !has_wal(file.get_filename()) => Ok(file.immutable(true)),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(file),
    }
}

/// Checks that the file that `url` names may be this program's, without writing anything.
///
/// # Errors
/// [`StoreError::Foreign`] or [`StoreError::Newer`] if it is not.
pub async fn check(url: &str) -> Result<(), StoreError> {
    recognise(&path_of(url)?, &MIGRATIONS).await.map(|_| ())
}

/// The path of the file that `url` names.
///
/// # Errors
/// [`StoreError::Unavailable`] if it names none.
pub fn path_of(url: &str) -> Result<PathBuf, StoreError> {
    let file = SqliteConnectOptions::from_str(url)?;
    Ok(file.get_filename().to_owned())
}

/// Runs the migrations one after another, each in a transaction of its own.
async fn migrate(connection: &mut SqliteConnection, faults: &Faults) -> Result<(), StoreError> {
    for migration in MIGRATIONS.iter() {
        faults.pass_without_actor(Point::StoreMigrating).await?;
        MIGRATIONS
            .run_to(migration.version, &mut *connection)
            .await
            .map_err(refuse_migration)?;
    }
    Ok(())
}

fn reader(file: SqliteConnectOptions, connections: u32, deadline: Duration) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(deadline)
        .connect_lazy_with(
            file.create_if_missing(false)
                .read_only(true)
                .row_buffer_size(READ_ROWS),
        )
}

fn is_in_memory(url: &str) -> bool {
    url.contains(":memory:") || url.contains("mode=memory")
}

fn refuse_migration(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        error => StoreError::Corrupt(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 1.7.
    #[tokio::test]
    async fn the_writer_syncs_as_the_model_of_a_power_loss_assumes() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        let mut writer = store.writer.begin().await.unwrap();
        let settings: (String, i64) = sqlx::query_as(
            "SELECT journal_mode, synchronous FROM pragma_journal_mode, pragma_synchronous",
        )
        .fetch_one(&mut *writer)
        .await
        .unwrap();
        // 1 is NORMAL.
        assert_eq!(settings, ("wal".to_owned(), 1));
    }
}
