//! A database file for each test, and its tables in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huddle_firehose::model::Position;
use huddle_firehose::store::Store;
use huddle_firehose::store::sqlite::{Options, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use tempfile::TempDir;

use crate::observed_source;

/// The tables that the worker writes.
const TABLES: [&str; 9] = [
    "accounts",
    "booking_requests",
    "bookings",
    "dead_letters",
    "firehose_cursor",
    "gaps",
    "offers_index",
    "records",
    "repos",
];

/// Columns with the time when a row was written, or a number in the order of writing.
const CLOCKS: &str = "'change', 'closed_at', 'created_at', 'first_indexed_at', 'id', 'indexed_at', \
                      'last_indexed_at', 'opened_at', 'removal_change', \
                      'updated_at'";

/// Tables whose `created_at` or `id` is not such a column.
const CLOCKLESS: &str = "'booking_requests', 'bookings', 'firehose_cursor', 'offers_index'";

/// The rows of each table as text, without the columns that depend on the clock.
pub type Tables = BTreeMap<&'static str, BTreeSet<String>>;

pub struct Database(TempDir);

impl Database {
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A copy in another folder, as the file would be if all processes that have it open ended now.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        for entry in self.0.path().read_dir().unwrap() {
            let entry = entry.unwrap();
            let (from, name) = (entry.path(), entry.file_name());
            // The first process that opens the file makes a new index of the log. A worker makes a
            // control socket.
            if entry.file_type().unwrap().is_file() && name != "huddle.db-shm" {
                std::fs::copy(from, copy.0.path().join(name)).unwrap();
            }
        }
        copy
    }

    /// A consistent copy, made while others write.
    pub async fn backup(&self) -> Self {
        let backup = Self::new();
        let to = backup.path();
        let vacuum = AssertSqlSafe(format!("VACUUM INTO '{}'", to.display()));
        sqlx::query(vacuum)
            .execute(&mut self.stranger().await)
            .await
            .unwrap();
        backup
    }

    /// Replaces this file, which a worker may have open, with `other`.
    pub fn replace_by(&self, other: &Self) {
        for leftover in ["huddle.db-wal", "huddle.db-shm"] {
            std::fs::remove_file(self.folder().join(leftover)).unwrap_or_default();
        }
        std::fs::rename(other.path(), self.path()).unwrap();
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("huddle.db")
    }

    pub fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    pub async fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.url()).await.unwrap()
    }

    /// A store that reports a locked database after a short time.
    pub async fn impatient_store(&self) -> SqliteStore {
        let options = Options {
            busy_timeout: Duration::from_millis(50),
            ..Options::default()
        };
        SqliteStore::open_with(&self.url(), options).await.unwrap()
    }

    /// A connection like that of another process.
    pub async fn stranger(&self) -> SqliteConnection {
        stranger_at(&self.path()).await
    }

    /// A connection like that of another process. It holds the write lock until it is dropped.
    pub async fn lock(&self) -> SqliteConnection {
        let mut stranger = self.stranger().await;
        stranger.execute("BEGIN IMMEDIATE").await.unwrap();
        stranger
    }

    pub async fn cursor(&self) -> Position {
        let store = self.store().await;
        store
            .load_cursor(&observed_source::id())
            .await
            .unwrap()
            .position
    }

    pub async fn move_cursor(&self, position: Position) {
        let (store, source) = (self.store().await, observed_source::id());
        store.move_cursor(&source, position, None).await.unwrap();
    }

    /// Returns the text of a query's single column, row by row.
    pub async fn rows(&self, sql: &'static str) -> Vec<String> {
        let mut stranger = self.stranger().await;
        let rows = sqlx::query_scalar(sql).fetch_all(&mut stranger);
        rows.await.unwrap()
    }

    /// Whether a frame is a dead letter of stage `poison`. Brings the schema up to date.
    pub async fn has_poison(&self) -> bool {
        drop(self.store().await);
        let accused = "SELECT error FROM dead_letters WHERE stage = 'poison'";
        !self.rows(accused).await.is_empty()
    }

    pub async fn tables(&self) -> Tables {
        tables_of(&mut self.stranger().await).await
    }

    /// Reads the highest cursor and the tables in one transaction.
    pub async fn cursor_and_tables(&self) -> (u64, Tables) {
        let mut stranger = self.stranger().await;
        stranger.execute("BEGIN").await.unwrap();
        let farthest = "SELECT max(CAST(cursor AS INTEGER)) FROM firehose_cursor";
        let cursor: i64 = sqlx::query_scalar(farthest)
            .fetch_one(&mut stranger)
            .await
            .unwrap();
        (cursor.unsigned_abs(), tables_of(&mut stranger).await)
    }
}

/// A connection to a database file, like that of another process.
pub async fn stranger_at(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap()
}

async fn tables_of(connection: &mut SqliteConnection) -> Tables {
    let mut tables = Tables::new();
    for table in TABLES {
        tables.insert(table, rows_of(connection, table).await);
    }
    tables
}

async fn rows_of(connection: &mut SqliteConnection, table: &str) -> BTreeSet<String> {
    let columns = format!(
        "SELECT group_concat('quote(' || name || ')', '|| '' '' ||') \
         FROM pragma_table_info('{table}') WHERE name NOT IN ({CLOCKS}) \
         OR (name IN ('created_at', 'id') AND '{table}' IN ({CLOCKLESS}))"
    );
    let columns: String = sqlx::query_scalar(AssertSqlSafe(columns))
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let rows: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT {columns} FROM {table}")))
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    let distinct: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), distinct.len(), "{table} holds a row twice");
    distinct
}

/// Like `assert_eq`, but shows only the difference.
pub fn assert_same_tables(found: &Tables, expected: &Tables) {
    for (table, expected) in expected {
        assert_same(table, &found[table], expected);
    }
}

pub fn assert_same<T: Ord + Debug>(what: &str, found: &BTreeSet<T>, expected: &BTreeSet<T>) {
    let missing: Vec<_> = expected.difference(found).collect();
    let unexpected: Vec<_> = found.difference(expected).collect();
    assert!(
        missing.is_empty() && unexpected.is_empty(),
        "{what}: missing {missing:#?}, unexpected {unexpected:#?}"
    );
}

/// The number of migrations of the embedded database.
pub fn migrations() -> u32 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
    let entries = std::fs::read_dir(folder).unwrap();
    let is_migration = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".sql");
    let count = entries.filter(|entry| is_migration(&entry.as_ref().unwrap().file_name()));
    u32::try_from(count.count()).unwrap()
}
