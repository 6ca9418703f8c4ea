//! A copy of the database while a worker may write to it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::SqliteStore;
use crate::store::StoreError;

/// How often the figures of the copy may lie outside of those of the database before and after it:
/// rows may come and go meanwhile.
const ATTEMPTS: u32 = 3;

/// What is counted: rows, and how far the cursors are.
const FIGURES: [(&str, &str); 8] = [
    ("records", "SELECT count(*) FROM records"),
    ("accounts", "SELECT count(*) FROM accounts"),
    ("repositories", "SELECT count(*) FROM repos"),
    ("parked commits", "SELECT count(*) FROM parked_commits"),
    ("dead letters", "SELECT count(*) FROM dead_letters"),
    ("gaps", "SELECT count(*) FROM gaps"),
    ("migrations", "SELECT count(*) FROM _sqlx_migrations"),
    (
        "cursors",
        "SELECT coalesce(sum(CAST(cursor AS INTEGER)), 0) FROM firehose_cursor",
    ),
];

/// A copy that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub bytes: u64,
    pub records: i64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} exists; name a file that does not", .0.display())]
    Exists(PathBuf),

    #[error("another backup is being made in {}; try again when it has ended", .0.display())]
    Busy(PathBuf),

    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },

    #[error("{0:?} is no text, which SQLite asks for")]
    Path(PathBuf),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error("the copy is not sound: {0}")]
    Unsound(String),

    #[error("the copy has {found} {what}, but the database had from {least} to {most}")]
    Differs {
        what: &'static str,
        found: i64,
        least: i64,
        most: i64,
    },
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl SqliteStore {
    /// Copies the database to `file`, as one transaction left it, and verifies the copy: it is opened,
    /// checked as a whole, and its rows are counted. Until then it has another name. The worker goes on
    /// meanwhile.
    ///
    /// # Errors
    /// If `file` exists, the copy cannot be made, or is not what the database was.
    pub async fn back_up(&self, file: &Path) -> Result<Backup, BackupError> {
        if file.exists() {
            return Err(BackupError::Exists(file.to_owned()));
        }
        // Another backup to the same name would take the draft away.
        let _lock = lock(folder_of(file))?;
        let draft = draft_of(file);
        let mut attempts = 0;
        let copied = loop {
            attempts += 1;
            remove(&draft)?;
            match self.copy(&draft).await {
                Err(BackupError::Differs { .. }) if attempts < ATTEMPTS => {}
                copied => break copied,
            }
        };
        let records = copied.inspect_err(|_| drop(remove(&draft)))?;
        let bytes = publish(&draft, file).map_err(|error| BackupError::File {
            path: file.to_owned(),
            error,
        })?;
        Ok(Backup { bytes, records })
    }

    /// Copies to `draft`, verifies that, and returns the number of its records.
    async fn copy(&self, draft: &Path) -> Result<i64, BackupError> {
        let Some(path) = draft.to_str() else {
            return Err(BackupError::Path(draft.to_owned()));
        };
        let mut connection = self.reader().acquire().await?;
        let before = figures(&mut connection).await?;
        sqlx::query("VACUUM INTO ?")
            .bind(path)
            .execute(&mut *connection)
            .await?;
        let after = figures(&mut connection).await?;
        let options = SqliteConnectOptions::new().filename(draft);
        let mut copy = options.read_only(true).immutable(true).connect().await?;
        let verified = verify(&mut copy, &before, &after).await;
        copy.close().await?;
        verified
    }
}

async fn verify(
    copy: &mut SqliteConnection,
    before: &[i64],
    after: &[i64],
) -> Result<i64, BackupError> {
    let faults: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_all(&mut *copy)
        .await?;
    if let Some(fault) = faults.iter().find(|fault| *fault != "ok") {
        return Err(BackupError::Unsound(fault.clone()));
    }
    let found = figures(copy).await?;
    let bounds = before.iter().zip(after);
    for (((what, _), found), (one, other)) in FIGURES.iter().zip(&found).zip(bounds) {
        let (least, most) = (*one.min(other), *one.max(other));
        if !(least..=most).contains(found) {
            return Err(BackupError::Differs {
                what,
                found: *found,
                least,
                most,
            });
        }
    }
    Ok(found.first().copied().unwrap_or_default())
}

/// The figures in their order.
async fn figures(connection: &mut SqliteConnection) -> Result<Vec<i64>, sqlx::Error> {
    let mut figures = Vec::new();
    for (_, query) in FIGURES {
        figures.push(
            sqlx::query_scalar(query)
                .fetch_one(&mut *connection)
                .await?,
        );
    }
    Ok(figures)
}

fn folder_of(file: &Path) -> &Path {
    let folder = file.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Locks a folder for one backup, until the file is dropped.
fn lock(folder: &Path) -> Result<File, BackupError> {
    let failed = |error| BackupError::File {
        path: folder.to_owned(),
        error,
    };
    let handle = File::open(folder).map_err(failed)?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(TryLockError::WouldBlock) => Err(BackupError::Busy(folder.to_owned())),
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(handle),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The name of a copy that is not verified yet.
fn draft_of(file: &Path) -> PathBuf {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".part");
    draft.into()
}

/// Removes what an earlier attempt has left.
fn remove(draft: &Path) -> Result<(), BackupError> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::File {
            path: draft.to_owned(),
            error,
        }),
        _ => Ok(()),
    }
}

/// Gives a verified copy its name, once it is on the disk. Returns its length.
fn publish(draft: &Path, file: &Path) -> io::Result<u64> {
    let copy = File::open(draft)?;
    copy.sync_all()?;
    // It fails if the file was made meanwhile; a rename would replace it.
    fs::hard_link(draft, file)?;
    fs::remove_file(draft)?;
    File::open(folder_of(file))?.sync_all()?;
    Ok(copy.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_that_lacks_what_the_database_had_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("huddle.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        let mut copy = store.reader().acquire().await.unwrap();
        let figures = figures(&mut copy).await.unwrap();
        assert_eq!(verify(&mut copy, &figures, &figures).await.unwrap(), 0);
        let with_more = |at: usize| -> Vec<i64> {
            let counts = figures.iter().enumerate();
            counts
                .map(|(index, count)| count + i64::from(index == at))
                .collect()
        };
        for at in 0..FIGURES.len() {
            let more = with_more(at);
            assert!(verify(&mut copy, &figures, &more).await.is_ok());
            let refused = verify(&mut copy, &more, &more).await.unwrap_err();
            assert!(matches!(refused, BackupError::Differs { .. }), "{refused}");
        }
    }
}
