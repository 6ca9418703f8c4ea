//! The rows of `audit`: who did what.

use serde_json::Value as Json;

use super::commit::ERROR_CHARS;
use super::script::Script;
use super::{SqliteStore, now, timely};
use crate::model::{AuditEntry, AuditRow};
use crate::store::StoreError;
use crate::telemetry::excerpt::excerpt;

/// The most rows of one page of a list.
pub const PAGE: u32 = 500;

/// Appends the statement that writes `entry`. A command that is done again writes nothing more.
pub(super) fn push(script: &mut Script, entry: &AuditEntry, now: &str) {
    let json = |value: &Option<Json>| value.as_ref().map(Json::to_string);
    let problem = entry.outcome.problem();
    script.push(
        "INSERT OR IGNORE INTO audit \
         (at, actor, command, action, target, before, after, reason, outcome, problem) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            now.into(),
            entry.actor.as_str().into(),
            entry.command.into(),
            entry.action.as_str().into(),
            entry.target.as_str().into(),
            json(&entry.before).into(),
            json(&entry.after).into(),
            entry.reason.clone().into(),
            entry.outcome.as_str().into(),
            problem.map(|problem| excerpt(problem, ERROR_CHARS)).into(),
        ],
    );
}

impl SqliteStore {
    /// Writes an audit row for something that has no other effect.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        timely(async {
            let mut script = Script::default();
            push(&mut script, entry, &now());
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Rows of the audit, the newest first: those with an id below `before`, at most `limit`.
    ///
    /// # Errors
    /// If the database fails, or a row is not what this version writes.
    pub async fn audit_rows(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let rows: Vec<Stored> = sqlx::query_as(
            "SELECT id, at, actor, command, action, target, before, after, reason, outcome, problem \
             FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?",
        )
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit.min(PAGE))
        .fetch_all(self.reader())
        .await?;
        rows.into_iter().map(Stored::row).collect()
    }
}

impl SqliteStore {
    /// Rows with a higher id, the oldest first, at most `limit`.
    pub(super) async fn audit_after(
        &self,
        after: i64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let rows: Vec<Stored> = sqlx::query_as(
            "SELECT id, at, actor, command, action, target, before, after, reason, outcome, problem \
             FROM audit WHERE id > ? ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(self.reader())
        .await?;
        rows.into_iter().map(Stored::row).collect()
    }
}

/// A row of `audit` as it is stored.
#[derive(sqlx::FromRow)]
struct Stored {
    id: i64,
    at: String,
    actor: String,
    command: Option<i64>,
    action: String,
    target: String,
    before: Option<String>,
    after: Option<String>,
    reason: Option<String>,
    outcome: String,
    problem: Option<String>,
}

impl Stored {
    fn row(self) -> Result<AuditRow, StoreError> {
        Ok(AuditRow {
            id: self.id,
            at: self.at,
            actor: self.actor,
            command: self.command,
            action: self.action,
            target: self.target,
            before: parse(self.before)?,
            after: parse(self.after)?,
            reason: self.reason,
            outcome: self.outcome,
            problem: self.problem,
        })
    }
}

/// Reads a column that holds JSON or NULL.
pub(super) fn parse(text: Option<String>) -> Result<Option<Json>, StoreError> {
    let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
    parsed.map_err(|error| StoreError::Corrupt(error.to_string()))
}
