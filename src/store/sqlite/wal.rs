//! Keeps the write-ahead log (WAL) small.
//!
//! SQLite copies the log into the file by itself, but begins it anew only at a moment at which no
//! reader uses it. Readers that overlap leave no such moment, however short each of them is. So
//! beyond a size the writer waits for them: those that begin meanwhile no longer need the log.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;
use tokio::time::Instant;

/// The size in bytes beyond which the writer waits for readers. SQLite cuts a larger log to it when
/// it begins anew. One transaction adds up to some 70 MiB.
pub(super) const LIMIT: u64 = 48 << 20;
/// How long the writer waits for readers.
const READER_DEADLINE: Duration = Duration::from_secs(2);
/// How long it does not wait for readers again after that was in vain.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    busy_timeout: Duration,
    paused_until: Mutex<Option<Instant>>,
}

impl Wal {
    /// The log of the database file `database`.
    pub(super) fn of(database: &Path, busy_timeout: Duration) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            busy_timeout,
            paused_until: Mutex::new(None),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Empties the log if it is too large. `connection` is in no transaction.
    pub(super) async fn limit(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if self.bytes() <= LIMIT || self.is_paused() {
            return Ok(());
        }
        let is_emptied = self.empty(connection).await?;
        let until = Instant::now() + PAUSE;
        self.pause(until, is_emptied);
        if !is_emptied {
            tracing::warn!(
                wal_bytes = self.bytes(),
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

    fn is_paused(&self) -> bool {
        let paused_until = *self.paused_until();
        paused_until.is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self, until: Instant, is_emptied: bool) {
        *self.paused_until() = (!is_emptied).then_some(until);
    }

    fn paused_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
