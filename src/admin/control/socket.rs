//! The file of the control socket: its place, and how it is made.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::store::lock::real_path;

/// What is appended to the database's path.
const SUFFIX: &str = ".sock";
/// The mode of the socket: its owner may connect, and root.
const MODE: u32 = 0o600;
/// The folder in which the socket is made, beside its place, and its name there.
const FOLDER: &str = ".new";
const FOLDER_MODE: u32 = 0o700;
const NEW: &str = "sock";

/// The control socket of a worker, which outlives the runs of its pipeline.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    /// The user of the worker.
    pub(super) owner: u32,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the control socket {path}: {error}", path = path.display())]
pub struct SocketError {
    path: PathBuf,
    error: io::Error,
}

impl ControlSocket {
    /// Makes the socket of the database at `database`, in the place of one that a killed worker has left.
    /// The caller has the lock of the database.
    ///
    /// # Errors
    /// If the socket cannot be made in the folder of the database.
    pub fn bind(database: &Path) -> Result<Self, SocketError> {
        let path = path_of(database);
        Self::bind_at(&path).map_err(|error| SocketError { path, error })
    }

    /// The socket gets its mode in a folder that only its owner can enter, and then its place.
    fn bind_at(path: &Path) -> io::Result<Self> {
        let folder = appended(path, FOLDER);
        // A worker that was killed here has left it.
        let _left = fs::remove_dir_all(&folder);
        DirBuilder::new().mode(FOLDER_MODE).create(&folder)?;
        let new = folder.join(NEW);
        let reached = Reached::through(&new)?;
        let listener = UnixListener::bind(&reached.path)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, Permissions::from_mode(MODE))?;
        let owner = fs::metadata(&new)?.uid();
        fs::rename(&new, path)?;
        let _empty = fs::remove_dir(&folder);
        Ok(Self { listener, owner })
    }

    /// Another handle of the same socket.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            listener: self.listener.try_clone()?,
            owner: self.owner,
        })
    }
}

/// The path of the control socket. Two paths to one database have one socket.
pub(super) fn path_of(database: &Path) -> PathBuf {
    appended(&real_path(database), SUFFIX)
}

fn appended(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A short path to a socket. The address of a socket has room for about a hundred bytes, and the path of
/// a database may be longer.
pub(super) struct Reached {
    pub(super) path: PathBuf,
    /// Keeps the short path valid.
    _folder: Option<File>,
}

impl Reached {
    pub(super) fn through(path: &Path) -> io::Result<Self> {
        let (folder, name) = (folder_of(path), path.file_name());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        // Only Linux has this folder. Elsewhere a long path is an error.
        if !cfg!(target_os = "linux") {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = File::open(folder)?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
        Ok(Self {
            path: short.join(name),
            _folder: Some(folder),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn connects(database: &Path) -> bool {
        let reached = Reached::through(&path_of(database)).unwrap();
        UnixStream::connect(&reached.path).is_ok()
    }

    /// Holds invariant 13.5.
    #[test]
    fn only_its_owner_may_use_it_and_it_replaces_one_that_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("huddle.db");
        for _ in 0..2 {
            let socket = ControlSocket::bind(&database).unwrap();
            let metadata = fs::metadata(folder.path().join("huddle.db.sock")).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, MODE);
            assert_eq!(metadata.uid(), socket.owner);
            assert!(connects(&database));
            drop(socket);
            assert!(!connects(&database));
        }
        let names = fs::read_dir(folder.path()).unwrap();
        assert_eq!(names.count(), 1, "what it was made in is gone");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_that_is_too_long_for_an_address_has_a_socket_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("f".repeat(120));
        fs::create_dir(&long).unwrap();
        let database = long.join("huddle.db");
        let _socket = ControlSocket::bind(&database).unwrap();
        assert!(connects(&database));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let error = ControlSocket::bind(Path::new("no/such/huddle.db")).unwrap_err();
        assert!(error.to_string().contains("no/such/huddle.db.sock"));
    }
}
