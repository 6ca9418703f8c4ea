//! What has happened since an operator last looked: rows with higher ids.

use serde::Serialize;

use super::SqliteStore;
use super::lists::GapRow;
use crate::model::AuditRow;
use crate::store::StoreError;
use crate::store::letters::LetterRow;

/// The most rows of each kind that are read at once.
const MOST: u32 = 100;

/// The highest ids so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub audit: i64,
    pub dead_letters: i64,
    pub gaps: i64,
}

/// Rows that are new, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct News {
    pub audit: Vec<AuditRow>,
    pub dead_letters: Vec<LetterRow>,
    pub gaps: Vec<GapRow>,
}

impl SqliteStore {
    /// The highest ids so far.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seen(&self) -> Result<Seen, StoreError> {
        let (audit, dead_letters, gaps) = sqlx::query_as(
            "SELECT (SELECT coalesce(max(id), 0) FROM audit), \
             (SELECT coalesce(max(id), 0) FROM dead_letters), \
             (SELECT coalesce(max(id), 0) FROM gaps)",
        )
        .fetch_one(self.reader())
        .await?;
        Ok(Seen {
            audit,
            dead_letters,
            gaps,
        })
    }

    /// Rows with higher ids than `seen`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn news(&self, seen: Seen) -> Result<News, StoreError> {
        Ok(News {
            audit: self.audit_after(seen.audit, MOST).await?,
            dead_letters: self.letters_after(seen.dead_letters, MOST).await?,
            gaps: self.gaps_after(seen.gaps, MOST).await?,
        })
    }
}
