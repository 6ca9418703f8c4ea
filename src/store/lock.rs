//! The lock of a database: one process writes to it at a time.
//!
//! A worker keeps the cursor in memory, so what another process does to it would be undone. SQLite
//! only keeps transactions apart. The lock is an advisory one on a file beside the database, which
//! says who holds it. The system releases it when its holder ends, however it ends. The file stays.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is appended to the database's path.
const SUFFIX: &str = ".lock";
/// More than a holder's line needs.
const MOST_BYTES: u64 = 4096;

/// The lock, until it is dropped.
#[derive(Debug)]
pub struct DatabaseLock {
    file: File,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub command: String,
    pub since: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "{path} is in use by {holder}; stop that process first",
        path = path.display(),
        holder = holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string)
    )]
    Held {
        path: PathBuf,
        /// `None` if the holder has not said who it is yet.
        holder: Option<Holder>,
    },

    #[error("cannot lock {path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl DatabaseLock {
    /// Takes the lock of the database at `path` for `command`.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it.
    pub fn acquire(path: &Path, command: &str) -> Result<Self, LockError> {
        let (path, lock) = (path.to_owned(), lock_of(path));
        let failed = |error| LockError::Io {
            path: lock.clone(),
            error,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read(&mut file);
                return Err(LockError::Held { path, holder });
            }
            // Some network file systems have no locks. The operator keeps the processes apart there.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(
                    path = %lock.display(),
                    "the file system has no locks; run only one process that writes to the database"
                );
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let holder = Holder {
            pid: std::process::id(),
            command: command.to_owned(),
            since: Timestamp::now(),
        };
        // On a full disk the lock counts without its line.
        let _told = write(&mut file, &holder);
        Ok(Self { file })
    }
}

impl Drop for DatabaseLock {
    fn drop(&mut self) {
        // The next holder writes its own line, and the lock alone counts.
        let _cleared = self.file.set_len(0);
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            command,
            since,
        } = self;
        write!(f, "process {pid} (`{command}`, since {since:.0})")
    }
}

/// The lock's path. Two paths to one database have one lock.
fn lock_of(path: &Path) -> PathBuf {
    let mut lock = real_path(path).into_os_string();
    lock.push(SUFFIX);
    lock.into()
}

/// The path of a database without links, whether it exists or not.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    // The database does not exist yet.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write(file: &mut File, holder: &Holder) -> io::Result<()> {
    let line = serde_json::to_string(holder)?;
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 12.3.
    #[test]
    fn a_lock_is_held_once_and_says_by_whom_whatever_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("huddle.db");
        let lock = DatabaseLock::acquire(&database, "run").unwrap();
        let roundabout = folder.path().join(".").join("huddle.db");
        for path in [&database, &roundabout] {
            match DatabaseLock::acquire(path, "cursor set").unwrap_err() {
                LockError::Held { holder, .. } => {
                    let holder = holder.unwrap();
                    assert_eq!((holder.pid, &*holder.command), (std::process::id(), "run"));
                }
                error @ LockError::Io { .. } => panic!("{error}"),
            }
        }
        drop(lock);
        DatabaseLock::acquire(&roundabout, "cursor set").unwrap();
    }

    #[test]
    fn a_database_and_a_link_to_it_have_one_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (database, link) = (
            folder.path().join("huddle.db"),
            folder.path().join("link.db"),
        );
        std::fs::write(&database, "").unwrap();
        std::os::unix::fs::symlink(&database, &link).unwrap();
        let _lock = DatabaseLock::acquire(&database, "run").unwrap();
        let refused = DatabaseLock::acquire(&link, "run");
        assert!(matches!(refused, Err(LockError::Held { .. })));
    }

    #[test]
    fn a_lock_in_a_folder_that_does_not_exist_names_its_path() {
        let error = DatabaseLock::acquire(Path::new("no/such/huddle.db"), "run").unwrap_err();
        assert!(
            error.to_string().contains("no/such/huddle.db.lock"),
            "{error}"
        );
    }
}
