//! Imports of identities from a directory's export, each a part at a time.

use jiff::Timestamp;

use super::script::Script;
use super::{SqliteStore, identities, integer};
use crate::atproto::syntax::Did;
use crate::identity::IdentityChange;
use crate::store::StoreError;
use crate::store::datetime::sortable;

/// How far an export is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Where the next part begins, in the terms of the source.
    pub position: String,
    /// The time of the newest operation that was read.
    pub as_of: Option<Timestamp>,
    /// The lines that were read.
    pub lines: u64,
}

impl SqliteStore {
    /// When each stored identity was looked up.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn identity_times(&self) -> Result<Vec<(Did, Timestamp)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT did, looked_up_at FROM identities")
                .fetch_all(self.reader())
                .await?;
        let times = rows.into_iter().filter_map(|(did, looked_up_at)| {
            Some((Did::parse(&did).ok()?, looked_up_at.parse().ok()?))
        });
        Ok(times.collect())
    }

    /// How far the export `source` is read; `None` if it was not.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn import_progress(
        &self,
        source: &str,
    ) -> Result<Option<ImportProgress>, StoreError> {
        let row: Option<(String, Option<String>, i64)> =
            sqlx::query_as("SELECT position, as_of, lines FROM identity_imports WHERE source = ?1")
                .bind(source)
                .fetch_optional(self.reader())
                .await?;
        Ok(row.map(|(position, as_of, lines)| ImportProgress {
            position,
            as_of: as_of.and_then(|time| time.parse().ok()),
            lines: lines.try_into().unwrap_or_default(),
        }))
    }

    /// Writes `changes`, and how far `source` is read with them, in one transaction.
    ///
    /// # Errors
    /// If the database takes nothing.
    pub async fn save_import(
        &self,
        source: &str,
        progress: &ImportProgress,
        changes: &[IdentityChange],
    ) -> Result<(), StoreError> {
        let mut script = Script::default();
        identities::push(&mut script, changes, true);
        script.push(
            "INSERT INTO identity_imports (source, position, as_of, lines) VALUES (?, ?, ?, ?) \
             ON CONFLICT (source) DO UPDATE SET position = excluded.position, \
             as_of = excluded.as_of, lines = excluded.lines",
            [
                source.into(),
                progress.position.as_str().into(),
                progress.as_of.map(sortable).into(),
                progress.lines.into(),
            ],
        );
        identities::commit(self.writer.begin().await?, script).await
    }

    /// Notes that all imported identities are those of `as_of`, since the export was read up to
    /// there. Deletes identities beyond `capacity`, those of accounts that are not tracked first.
    /// Returns how many identities there are, and how many of them are tracked accounts'.
    ///
    /// # Errors
    /// If the database takes nothing.
    pub async fn finish_import(
        &self,
        as_of: Option<Timestamp>,
        capacity: usize,
    ) -> Result<(u64, u64), StoreError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query(
            "UPDATE identities SET looked_up_at = ?1 WHERE is_imported = 1 AND looked_up_at < ?1",
        )
        .bind(as_of.map(sortable))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM identities WHERE did IN (SELECT did FROM identities \
             ORDER BY did IN (SELECT did FROM repos), looked_up_at \
             LIMIT max(0, (SELECT count(*) FROM identities) - ?1))",
        )
        .bind(integer(capacity as u64))
        .execute(&mut *transaction)
        .await?;
        let (all, tracked): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(*) FILTER (WHERE did IN (SELECT did FROM repos)) \
             FROM identities",
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let count = |count: i64| count.try_into().unwrap_or_default();
        Ok((count(all), count(tracked)))
    }
}
