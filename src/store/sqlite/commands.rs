//! The rows of `commands`: written, begun, ended.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::apply::Progress;
use super::commit::ERROR_CHARS;
use super::script::Script;
use super::{SqliteStore, apply, audit, count, now, timely};
use crate::model::{
    AuditEntry, AuditOutcome, CommandEnd, CommandRow, CommandState, Gap, NewCommand, Position,
    Receipt, SourceId, Submitted,
};
use crate::store::datetime::sortable;
use crate::store::plan::RepoChange;
use crate::store::plan::effect::Effect;
use crate::store::{StoreError, Written};
use crate::telemetry::excerpt::excerpt;

/// How many commands may wait.
const MOST_OPEN: i64 = 1000;
/// How long a key stands for the request that was made with it.
const KEY_LIFE: SignedDuration = SignedDuration::from_hours(24);

const COLUMNS: &str = "id, kind, arguments, actor, reason, created_at, state, started_at, ended_at, \
                       interruptions, progress, result, error";

/// What became of a request to cancel a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    Done,
    /// It is running, or has ended.
    TooLate,
}

/// Appends what a command writes in the transaction of its effect.
pub(super) fn push_receipt(script: &mut Script, receipt: &Receipt, now: &str) {
    audit::push(script, &receipt.audit, now);
    if let (Some(result), Some(command)) = (&receipt.result, receipt.audit.command) {
        push_end(script, command, &CommandEnd::Done(result.clone()), now);
    }
}

/// Appends the statement that notes how far a long command is. Its interruptions are counted anew: they
/// count against the piece that is in progress.
pub(super) fn push_progress(script: &mut Script, command: i64, progress: &Json) {
    script.push(
        "UPDATE commands SET progress = ?, interruptions = 0 WHERE id = ? AND ended_at IS NULL",
        [progress.to_string().into(), command.into()],
    );
}

fn push_end(script: &mut Script, command: i64, end: &CommandEnd, now: &str) {
    let (state, result, error) = match end {
        CommandEnd::Done(result) => (CommandState::Done, Some(result.to_string()), None),
        CommandEnd::Failed(error) => (CommandState::Failed, None, Some(error.as_str())),
    };
    script.push(
        "UPDATE commands SET state = ?, ended_at = ?, result = ?, error = ? \
         WHERE id = ? AND ended_at IS NULL",
        [
            state.as_str().into(),
            now.into(),
            result.into(),
            error.map(|error| excerpt(error, ERROR_CHARS)).into(),
            command.into(),
        ],
    );
}

impl SqliteStore {
    /// Writes a command, which the next step of the CommandActor takes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn submit_command(&self, new: &NewCommand) -> Result<Submitted, StoreError> {
        timely(submit(self, new)).await
    }

    /// Records a command that its sender may not give.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn deny_command(
        &self,
        new: &NewCommand,
        target: &str,
        problem: &str,
    ) -> Result<(), StoreError> {
        timely(async {
            let mut transaction = self.writer.begin().await?;
            let id = insert(&mut transaction, new, CommandState::Denied).await?;
            let mut script = Script::default();
            let entry = AuditEntry {
                actor: new.actor.clone(),
                command: Some(id),
                action: new.kind.clone(),
                target: target.to_owned(),
                before: None,
                after: None,
                reason: new.reason.clone(),
                outcome: AuditOutcome::Denied(problem.to_owned()),
            };
            audit::push(&mut script, &entry, &now());
            transaction.run(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Notes that what was running when the worker died is interrupted. Must be called before the first
    /// command of a run. Returns how many there are.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn interrupt_commands(&self) -> Result<u64, StoreError> {
        timely(async {
            let mut transaction = self.writer.begin().await?;
            let interrupted = sqlx::query(
                "UPDATE commands SET state = 'interrupted', interruptions = interruptions + 1 \
                 WHERE state = 'running'",
            )
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(interrupted.rows_affected())
        })
        .await
    }

    /// The commands that are not ended, in their order.
    ///
    /// # Errors
    /// If the database fails, or a row is not what this version writes.
    pub async fn open_commands(&self) -> Result<Vec<CommandRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM commands WHERE ended_at IS NULL ORDER BY id");
        let rows: Vec<Stored> = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(self.reader())
            .await?;
        rows.into_iter().map(Stored::row).collect()
    }

    /// One command.
    ///
    /// # Errors
    /// If the database fails, or the row is not what this version writes.
    pub async fn command(&self, id: i64) -> Result<Option<CommandRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM commands WHERE id = ?");
        let row: Option<Stored> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(id)
            .fetch_optional(self.reader())
            .await?;
        row.map(Stored::row).transpose()
    }

    /// Commands, the newest first: those with an id below `before`, at most `limit`.
    ///
    /// # Errors
    /// If the database fails, or a row is not what this version writes.
    pub async fn commands(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<CommandRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM commands WHERE id < ? ORDER BY id DESC LIMIT ?");
        let rows: Vec<Stored> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit.min(audit::PAGE))
            .fetch_all(self.reader())
            .await?;
        rows.into_iter().map(Stored::row).collect()
    }

    /// Notes that a command begins. Returns whether it may: it may have been cancelled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn start_command(&self, id: i64) -> Result<bool, StoreError> {
        timely(async {
            let mut transaction = self.writer.begin().await?;
            let started = sqlx::query(
                "UPDATE commands SET state = 'running', started_at = coalesce(started_at, ?) \
                 WHERE id = ? AND ended_at IS NULL",
            )
            .bind(now())
            .bind(id)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(started.rows_affected() > 0)
        })
        .await
    }

    /// Notes how far a long command is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_command_progress(&self, id: i64, progress: &Json) -> Result<(), StoreError> {
        timely(async {
            let mut script = Script::default();
            push_progress(&mut script, id, progress);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Notes that a long command begins, with the audit row of what it is about to do.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_command(
        &self,
        id: i64,
        progress: &Json,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        timely(async {
            let mut script = Script::default();
            audit::push(&mut script, entry, &now());
            push_progress(&mut script, id, progress);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Ends a command, with the audit row of a failure or of an effect that is not in the database.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_command(
        &self,
        id: i64,
        end: &CommandEnd,
        entry: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        timely(async {
            let (mut script, now) = (Script::default(), now());
            if let Some(entry) = entry {
                audit::push(&mut script, entry, &now);
            }
            push_end(&mut script, id, end, &now);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Cancels a command that does not run, or a long one between two of its pieces.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn cancel_command(
        &self,
        id: i64,
        actor: &str,
        reason: Option<String>,
    ) -> Result<Cancelled, StoreError> {
        timely(async {
            let (mut transaction, now) = (self.writer.begin().await?, now());
            let cancelled = sqlx::query(
                "UPDATE commands SET state = 'cancelled', ended_at = ? \
                 WHERE id = ? AND ended_at IS NULL AND (state <> 'running' OR progress IS NOT NULL)",
            )
            .bind(&now)
            .bind(id)
            .execute(&mut *transaction)
            .await?;
            if cancelled.rows_affected() == 0 {
                transaction.rollback().await?;
                return Ok(Cancelled::TooLate);
            }
            let mut script = Script::default();
            let entry = AuditEntry {
                actor: actor.to_owned(),
                command: Some(id),
                action: "cancel".to_owned(),
                target: id.to_string(),
                before: None,
                after: None,
                reason,
                outcome: AuditOutcome::Ok,
            };
            audit::push(&mut script, &entry, &now);
            transaction.run(script).await?;
            transaction.commit().await?;
            Ok(Cancelled::Done)
        })
        .await
    }

    /// Applies a change to a repository or an account, with the receipt of the command that asked for
    /// it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn change_by_command(
        &self,
        change: RepoChange<'_>,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        timely(async {
            apply::change(&self.writer, change, Some(receipt)).await?;
            Ok(())
        })
        .await
    }

    /// Applies events of a source that were read again, with the progress of the command. The cursor stays
    /// where it is.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if the database refuses some of them.
    pub async fn write_again(
        &self,
        source: &SourceId,
        effects: &[Effect],
        progress: Progress<'_>,
    ) -> Result<Written, StoreError> {
        let change = RepoChange::Reread { source, effects };
        timely(apply::change_with_progress(&self.writer, change, progress)).await
    }

    /// Moves a cursor, with the receipt of the command that asked for it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn move_cursor_by_command(
        &self,
        source: &SourceId,
        position: Position,
        gap: Option<&Gap>,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        let moving = apply::move_cursor(&self.writer, source, position, gap, Some(receipt));
        timely(moving).await
    }
}

async fn submit(store: &SqliteStore, new: &NewCommand) -> Result<Submitted, StoreError> {
    let mut transaction = store.writer.begin().await?;
    if let Some(key) = &new.idempotency_key {
        forget_old_keys(&mut transaction).await?;
        if let Some(known) = by_key(&mut transaction, key).await? {
            let is_same = known.kind == new.kind
                && known.arguments == new.arguments
                && known.actor == new.actor;
            return Ok(match is_same {
                true => Submitted::Known(known),
                false => Submitted::KeyIsTaken,
            });
        }
    }
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM commands WHERE ended_at IS NULL")
        .fetch_one(&mut *transaction)
        .await?;
    if open >= MOST_OPEN {
        return Ok(Submitted::Full);
    }
    let id = insert(&mut transaction, new, CommandState::Queued).await?;
    let sql = format!("SELECT {COLUMNS} FROM commands WHERE id = ?");
    let row: Stored = sqlx::query_as(AssertSqlSafe(sql))
        .bind(id)
        .fetch_one(&mut *transaction)
        .await?;
    let row = row.row()?;
    transaction.commit().await?;
    Ok(Submitted::New(row))
}

async fn forget_old_keys(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let oldest = now.saturating_sub(KEY_LIFE).unwrap_or(Timestamp::MIN);
    sqlx::query(
        "UPDATE commands SET idempotency_key = NULL \
         WHERE idempotency_key IS NOT NULL AND created_at < ?",
    )
    .bind(sortable(oldest))
    .execute(connection)
    .await?;
    Ok(())
}

async fn by_key(
    connection: &mut SqliteConnection,
    key: &str,
) -> Result<Option<CommandRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM commands WHERE idempotency_key = ?");
    let row: Option<Stored> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(key)
        .fetch_optional(connection)
        .await?;
    row.map(Stored::row).transpose()
}

async fn insert(
    connection: &mut SqliteConnection,
    new: &NewCommand,
    state: CommandState,
) -> Result<i64, StoreError> {
    let now = now();
    let inserted = sqlx::query(
        "INSERT INTO commands \
         (kind, arguments, actor, reason, created_at, state, ended_at, idempotency_key) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&new.kind)
    .bind(new.arguments.to_string())
    .bind(&new.actor)
    .bind(&new.reason)
    .bind(&now)
    .bind(state.as_str())
    .bind(state.is_ended().then_some(&now))
    .bind(new.idempotency_key.as_ref().filter(|_| !state.is_ended()))
    .execute(connection)
    .await?;
    Ok(inserted.last_insert_rowid())
}

/// A row of `commands` as it is stored.
#[derive(sqlx::FromRow)]
struct Stored {
    id: i64,
    kind: String,
    arguments: String,
    actor: String,
    reason: Option<String>,
    created_at: String,
    state: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    interruptions: i64,
    progress: Option<String>,
    result: Option<String>,
    error: Option<String>,
}

impl Stored {
    fn row(self) -> Result<CommandRow, StoreError> {
        let state = CommandState::parse(&self.state);
        Ok(CommandRow {
            id: self.id,
            kind: self.kind,
            arguments: audit::parse(Some(self.arguments))?.unwrap_or_default(),
            actor: self.actor,
            reason: self.reason,
            created_at: self.created_at,
            state: state.ok_or(StoreError::Corrupt(self.state))?,
            started_at: self.started_at,
            ended_at: self.ended_at,
            interruptions: count(self.interruptions),
            progress: audit::parse(self.progress)?,
            result: audit::parse(self.result)?,
            error: self.error,
        })
    }
}
