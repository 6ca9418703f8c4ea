//! Keeps the write-ahead log (WAL) small.
//!
//! SQLite copies the log into the file by itself, but begins it anew only at a moment at which no
//! reader uses it. Readers that overlap leave no such moment, however short each of them is. So
//! beyond a size the writer waits for them: those that begin meanwhile no longer need the log.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;
use tokio::time::Instant;

/// The size in bytes beyond which the writer waits for readers. SQLite cuts a larger log to it when
/// it begins anew. One transaction adds up to some 70 MiB.
pub(super) const LIMIT: u64 = 48 << 20;
/// How long the writer waits for readers.
const READER_DEADLINE: Duration = Duration::from_secs(2);
/// After it waited in vain, the writer waits again when this time has passed, or when the log has
/// grown by so many bytes. So one reader that stays costs little, and readers that are slow on a busy
/// machine do not let the log grow far.
const PAUSE: Duration = Duration::from_secs(10);
const GROWTH: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    busy_timeout: Duration,
    pause: Mutex<Option<Pause>>,
}

/// The writer does not wait for readers, because that was in vain.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    /// The size of the log up to which it lasts.
    through: u64,
}

impl Wal {
    /// The log of the database file `database`.
    pub(super) fn of(database: &Path, busy_timeout: Duration) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            busy_timeout,
            pause: Mutex::new(None),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Empties the log if it is too large. `connection` is in no transaction.
    pub(super) async fn limit(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let bytes = self.bytes();
        if bytes <= LIMIT || self.is_paused(bytes) {
            return Ok(());
        }
        let is_emptied = self.empty(connection).await?;
        *self.pause() = (!is_emptied).then(|| Pause {
            until: Instant::now() + PAUSE,
            through: bytes.saturating_add(GROWTH.max(bytes / 4)),
        });
        if !is_emptied {
            tracing::warn!(
                wal_bytes = bytes,
                waited_ms = READER_DEADLINE.as_millis() as u64,
                retry_in_s = PAUSE.as_secs(),
                "a reader keeps the database's write-ahead log from being emptied; writing goes on, the log grows until the reader ends"
            );
        }
        Ok(())
    }

    /// Copies the log into the file, and cuts it to nothing. Returns whether no reader prevented it.
    pub(super) async fn empty(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<bool, sqlx::Error> {
        set_busy_timeout(connection, READER_DEADLINE).await?;
        let (is_busy, _pages, _copied): (i64, i64, i64) =
            sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
                .fetch_one(&mut *connection)
                .await?;
        set_busy_timeout(connection, self.busy_timeout).await?;
        Ok(is_busy == 0)
    }

    fn is_paused(&self, bytes: u64) -> bool {
        let pause = *self.pause();
        pause.is_some_and(|pause| Instant::now() < pause.until && bytes <= pause.through)
    }

    fn pause(&self) -> MutexGuard<'_, Option<Pause>> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn set_busy_timeout(
    connection: &mut SqliteConnection,
    timeout: Duration,
) -> Result<(), sqlx::Error> {
    let pragma = format!("PRAGMA busy_timeout = {}", timeout.as_millis());
    connection.execute(sqlx::AssertSqlSafe(pragma)).await?;
    Ok(())
}
