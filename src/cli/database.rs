//! Opens the database for a command, with the lock that the command needs.

use std::path::Path;

use anyhow::bail;

use huddle_firehose::config::Config;
use huddle_firehose::store::StoreError;
use huddle_firehose::store::lock::{DatabaseLock, LockError};
use huddle_firehose::store::sqlite::{Access, Options, SqliteStore, check, path_of};

/// The commands of a worker, which takes commands.
const WORKERS: [&str; 2] = ["run", "backfill"];

/// Takes the lock of the database, for `command`, which writes.
///
/// The file is recognised first: nothing is made beside another application's database.
pub(super) async fn lock(config: &Config, command: &str) -> anyhow::Result<DatabaseLock> {
    let path = path_of(&config.database_url)?;
    let checked = check(&config.database_url).await;
    checked.map_err(|error| named(error, &path))?;
    Ok(DatabaseLock::acquire(&path, command)?)
}

/// Opens the database. The caller has the lock that `access` needs.
pub(super) async fn open(config: &Config, access: Access) -> anyhow::Result<SqliteStore> {
    let options = Options {
        access,
        ..Options::default()
    };
    let path = path_of(&config.database_url)?;
    let opened = SqliteStore::open_with(&config.database_url, options).await;
    opened.map_err(|error| named(error, &path))
}

/// Opens the database for a command that only shows what is in it.
pub(super) async fn open_to_read(config: &Config) -> anyhow::Result<SqliteStore> {
    open(config, Access::Read).await
}

/// Opens an existing database for a command that writes, and that no worker may run beside.
pub(super) async fn open_to_write(
    config: &Config,
    command: &str,
) -> anyhow::Result<(SqliteStore, DatabaseLock)> {
    let lock = lock(config, command).await?;
    Ok((open(config, Access::Migrate).await?, lock))
}

/// Opens an existing database for a request to the worker on it, or to the next one. Without a
/// worker, returns the lock too.
pub(super) async fn open_for_request(
    config: &Config,
    command: &str,
) -> anyhow::Result<(SqliteStore, Option<DatabaseLock>)> {
    match open_to_write(config, command).await {
        Ok((store, lock)) => Ok((store, Some(lock))),
        Err(error) if is_held_by_worker(&error) => Ok((open(config, Access::Write).await?, None)),
        Err(error) => Err(error),
    }
}

/// Opens the database beside the worker that has it.
pub(super) async fn open_beside_worker(
    config: &Config,
    command: &str,
) -> anyhow::Result<SqliteStore> {
    match open_for_request(config, command).await? {
        (store, None) => Ok(store),
        (_, Some(_lock)) => bail!(
            "no worker runs on {}; start one with `run`, or leave out --beside",
            path_of(&config.database_url)?.display()
        ),
    }
}

/// The error with the path of the database, which only some errors of the store have.
fn named(error: StoreError, path: &Path) -> anyhow::Error {
    match error {
        StoreError::Foreign { .. }
        | StoreError::Missing(_)
        | StoreError::Newer { .. }
        | StoreError::Older(_) => error.into(),
        error => anyhow::Error::from(error).context(format!("cannot open {}", path.display())),
    }
}

/// The error of a command with the path of the database, if the database fails.
pub(super) fn with_path(config: &Config, error: anyhow::Error) -> anyhow::Error {
    let failure = error.downcast_ref();
    let is_unavailable = matches!(
        failure,
        Some(StoreError::Deadline | StoreError::Unavailable(_))
    );
    match path_of(&config.database_url) {
        Ok(path) if is_unavailable && !error.to_string().contains(&*path.to_string_lossy()) => {
            error.context(format!("cannot use {}", path.display()))
        }
        _ => error,
    }
}

/// Whether the lock is held by a worker.
pub(super) fn is_held_by_worker(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(LockError::Held { holder, .. }) => holder
            .as_ref()
            .is_none_or(|holder| WORKERS.contains(&&*holder.command)),
        _ => false,
    }
}
