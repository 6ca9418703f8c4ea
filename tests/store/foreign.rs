//! A file that is not a database of this program is refused before anything is written to it. Holds
//! invariant 12.4.

use std::collections::BTreeMap;
use std::path::Path;

use huddle_firehose::store::StoreError;
use huddle_firehose::store::sqlite::{Access, Options, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Executor};

/// Each file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap();
    let files = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    });
    files.collect()
}

async fn make(path: &Path, mode: SqliteJournalMode, statements: &'static str) {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(mode);
    let mut connection = options.connect().await.unwrap();
    connection.execute(statements).await.unwrap();
    connection.close().await.unwrap();
}

async fn open(path: &Path, access: Access) -> Result<SqliteStore, StoreError> {
    let options = Options {
        access,
        ..Options::default()
    };
    let url = format!("sqlite://{}", path.display());
    SqliteStore::open_with(&url, options).await
}

#[tokio::test]
async fn another_applications_database_is_refused_and_not_touched() {
    let table = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO notes VALUES (1, 'kept')";
    let number = "PRAGMA application_id = 1196444487; CREATE VIEW v AS SELECT 1";
    let migrations = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT, \
                      installed_on TEXT, success BOOLEAN, checksum BLOB, execution_time BIGINT); \
                      INSERT INTO _sqlx_migrations VALUES (1, 'users', '', 1, x'00', 0); \
                      CREATE TABLE users (id INTEGER)";
    for mode in [SqliteJournalMode::Delete, SqliteJournalMode::Wal] {
        for statements in [table, number, migrations] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("other.db");
            make(&path, mode, statements).await;
            let before = files(folder.path());
            for access in [Access::Create, Access::Migrate, Access::Write, Access::Read] {
                let refused = open(&path, access).await;
                let is_foreign = matches!(refused, Err(StoreError::Foreign { .. }));
                assert!(is_foreign, "{statements}: {refused:?}");
                assert!(
                    files(folder.path()) == before,
                    "{statements}: something was written"
                );
            }
        }
    }
}

/// Its application has ended amid its work, and rolls on from there at its next start.
#[tokio::test]
async fn the_log_of_another_applications_database_is_left_to_it() {
    let (theirs, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = theirs.path().join("other.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let mut connection = options.connect().await.unwrap();
    connection
        .execute("CREATE TABLE notes (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES (1)")
        .await
        .unwrap();
    for name in ["other.db", "other.db-wal"] {
        std::fs::copy(theirs.path().join(name), folder.path().join(name)).unwrap();
    }
    connection.close().await.unwrap();
    let before = files(folder.path());
    assert!(!before["other.db-wal"].is_empty());
    for access in [Access::Create, Access::Migrate, Access::Write, Access::Read] {
        let refused = open(&folder.path().join("other.db"), access).await;
        assert!(
            matches!(refused, Err(StoreError::Foreign { .. })),
            "{refused:?}"
        );
        let mut after = files(folder.path());
        // It has no content of its own: whatever reads the log makes it anew.
        after.remove("other.db-shm");
        assert!(after == before, "something was written");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    std::fs::write(&path, "Dear all,").unwrap();
    let before = files(folder.path());
    let refused = open(&path, Access::Create).await;
    assert!(
        matches!(refused, Err(StoreError::Foreign { .. })),
        "{refused:?}"
    );
    assert!(files(folder.path()) == before);
}

#[tokio::test]
async fn a_file_without_tables_becomes_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, without_tables) = (folder.path().join("a.db"), folder.path().join("b.db"));
    std::fs::write(&empty, "").unwrap();
    make(&without_tables, SqliteJournalMode::Wal, "VACUUM").await;
    for path in [empty, without_tables] {
        open(&path, Access::Create).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_is_read_without_being_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huddle.db");
    open(&path, Access::Create).await.unwrap();
    // The connection is closed on a thread of its own, and takes its WAL with it.
    while folder.path().join("huddle.db-wal").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let before = files(folder.path())["huddle.db"].clone();
    let store = open(&path, Access::Read).await.unwrap();
    assert_eq!(store.cursors().await.unwrap().len(), 1);
    assert!(store.check_writable().await.is_err());
    drop(store);
    assert!(files(folder.path())["huddle.db"] == before);
}

#[tokio::test]
async fn a_database_of_an_older_version_is_migrated_only_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huddle.db");
    open(&path, Access::Create).await.unwrap();
    let last =
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    let mut connection = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    connection.execute(last).await.unwrap();
    connection.close().await.unwrap();
    for access in [Access::Write, Access::Read] {
        let refused = open(&path, access).await;
        assert!(matches!(refused, Err(StoreError::Older(_))), "{refused:?}");
    }
}
