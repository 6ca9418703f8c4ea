//! Recognises the database file before anything is written to it.
//!
//! Opening a file in WAL mode writes to it, and migrations create tables. In another application's
//! database both would be damage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::store::StoreError;

/// How a SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The place of the application's number in the header. This program sets none.
const APPLICATION_ID: std::ops::Range<usize> = 68..72;
const HEADER: u64 = 100;

/// What a database file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// There is no file, or it has no tables.
    Nothing,
    /// It is one of this program.
    Ours {
        /// Whether all migrations of this version were applied.
        is_current: bool,
    },
}

/// Reads what the file at `path` is, without writing anything.
///
/// # Errors
/// [`StoreError::Foreign`] if it is another application's, [`StoreError::Newer`] if a newer version
/// of this program has migrated it.
pub(super) async fn recognise(path: &Path, migrations: &Migrator) -> Result<Contents, StoreError> {
    if !has_header(path)? {
        return Ok(Contents::Nothing);
    }
    let mut connection = connect(path).await?;
    let outcome = read(&mut connection, path, migrations).await;
    // It has only read.
    let _closed = connection.close().await;
    outcome
}

/// Whether the file begins as a SQLite file does; `false` if it is missing or empty.
fn has_header(path: &Path) -> Result<bool, StoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file.map_err(sqlx::Error::Io)?,
    };
    if file.metadata().map_err(sqlx::Error::Io)?.is_dir() {
        return Err(foreign(path, "it is a folder"));
    }
    let mut header = Vec::new();
    file.take(HEADER)
        .read_to_end(&mut header)
        .map_err(sqlx::Error::Io)?;
    if header.is_empty() {
        return Ok(false);
    }
    if !header.starts_with(MAGIC) {
        return Err(foreign(
            path,
            "it is not a SQLite file, or its beginning is damaged",
        ));
    }
    if header.get(APPLICATION_ID).is_some_and(|id| id != [0; 4]) {
        return Err(foreign(path, "it has the number of another application"));
    }
    Ok(true)
}

async fn connect(path: &Path) -> Result<SqliteConnection, StoreError> {
    let file = SqliteConnectOptions::new().filename(path);
    // What was interrupted is rolled back first, as its own application would do. That needs a
    // connection that may write.
    if has_content(&beside(path, "-journal")) {
        return Ok(file.connect().await?);
    }
    // Without `immutable`, SQLite makes files beside one that is in WAL mode. With it, the WAL is
    // not read, so there must be none.
    let file = file.read_only(true).immutable(!has_wal(path));
    Ok(file.connect().await?)
}

/// Whether there is a WAL with anything in it.
pub(super) fn has_wal(path: &Path) -> bool {
    has_content(&beside(path, "-wal"))
}

fn has_content(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.len() > 0)
}

/// The path of a file that SQLite makes beside the one at `path`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

async fn read(
    connection: &mut SqliteConnection,
    path: &Path,
    migrations: &Migrator,
) -> Result<Contents, StoreError> {
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )
    .fetch_all(&mut *connection)
    .await?;
    if tables.is_empty() {
        return Ok(Contents::Nothing);
    }
    if !tables.iter().any(|(name,)| name == "_sqlx_migrations") {
        let (name,) = &tables[0];
        return Err(foreign(
            path,
            &format!("it has a table {name:?} that is not of this program"),
        ));
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut *connection)
            .await?;
    let known: BTreeMap<i64, &[u8]> = migrations
        .iter()
        .map(|migration| (migration.version, &*migration.checksum))
        .collect();
    let Some((first, checksum)) = applied.first() else {
        // A first start was cut off before its first migration, or another application's was. With
        // no other table there is nothing to damage.
        return match tables.len() {
            1 => Ok(Contents::Nothing),
            _ => Err(foreign(path, "it has tables that are not of this program")),
        };
    };
    if known.get(first) != Some(&&**checksum) {
        return Err(foreign(
            path,
            "its first migration is not one of this program",
        ));
    }
    let last = applied.last().map_or(0, |(version, _)| *version);
    let newest = known.keys().last().copied().unwrap_or(0);
    if last > newest {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: last,
            known: newest,
        });
    }
    Ok(Contents::Ours {
        is_current: applied.len() == known.len(),
    })
}

fn foreign(path: &Path, reason: &str) -> StoreError {
    StoreError::Foreign {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
