//! Runs a task as one transaction: reads what the plan needs, plans, and writes the change set.

use std::slice;

use jiff::Timestamp;
use serde_json::Value as Json;
use sqlx::Executor;

use super::error::is_refusal;
use super::script::Script;
use super::writer::{Failure, Transaction, Writer};
use super::{commands, commit, cursor, read, removal};
use crate::model::{DeadLetter, Gap, Position, Receipt, SourceId};
use crate::store::datetime::sortable;
use crate::store::plan::effect::{Effect, EffectPart, Rejection};
use crate::store::plan::{ChangeSet, Moment, Needs, RepoChange, Task, View, plan};
use crate::store::{PieceLimit, RemovalPiece, StoreError, WriteBatch, Written};
use crate::testing::fault::Point;

/// The change of a source's cursor.
#[derive(Clone, Copy, Debug)]
struct CursorMove<'a> {
    source: &'a SourceId,
    position: Position,
    /// It may move back. Otherwise it only moves forward.
    is_forced: bool,
}

/// What a command writes in the transaction of its effect.
#[derive(Clone, Copy)]
enum Note<'a> {
    Progress(Progress<'a>),
    Receipt(&'a Receipt),
}

/// How far a long command is after a change.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Its id.
    pub command: i64,
    /// The progress, given what the change has written.
    pub after: &'a (dyn Fn(&Written) -> Json + Sync),
}

pub(super) async fn apply(writer: &Writer, batch: &WriteBatch<'_>) -> Result<Written, StoreError> {
    let (task, cursor) = parts_of(batch);
    settle(writer, &task, Some(cursor), None).await
}

/// Like [`apply`], but does not look for what is refused: the batches are applied one by one then.
pub(super) async fn apply_group(
    writer: &Writer,
    batch: &WriteBatch<'_>,
) -> Result<Written, StoreError> {
    let (task, cursor) = parts_of(batch);
    match perform(writer, &task, Some(cursor), None).await {
        Err(Failure::Refused(error)) => {
            tracing::debug!(%error, "the database refused a group of batches; they are written one by one");
            Err(StoreError::Rejected(Vec::new()))
        }
        Err(Failure::Store(error)) => Err(error),
        Ok(written) => Ok(written),
    }
}

fn parts_of<'a>(batch: &WriteBatch<'a>) -> (Task<'a>, CursorMove<'a>) {
    let task = Task::Batch {
        source: batch.source,
        effects: batch.effects,
        through: Some(batch.position.seq),
    };
    let cursor = CursorMove {
        source: batch.source,
        position: batch.position,
        is_forced: batch.sequence_restarted,
    };
    (task, cursor)
}

/// Deletes a piece of the rows of removed accounts. `None` if no account is being removed.
pub(super) async fn remove_piece(
    writer: &Writer,
    limit: PieceLimit,
) -> Result<Option<RemovalPiece>, StoreError> {
    let Some((piece, removal)) = removal::piece(writer, limit).await? else {
        return Ok(None);
    };
    if piece.is_last {
        let did = &piece.did;
        change(writer, RepoChange::RemovalEnded { did, removal }, None).await?;
    }
    Ok(Some(piece))
}

/// Applies a change, and the receipt of the command that asked for it.
pub(super) async fn change(
    writer: &Writer,
    change: RepoChange<'_>,
    receipt: Option<&Receipt>,
) -> Result<Written, StoreError> {
    let note = receipt.map(Note::Receipt);
    settle(writer, &Task::Change(change), None, note).await
}

/// Applies a change, and notes how far the command is that does it.
pub(super) async fn change_with_progress(
    writer: &Writer,
    change: RepoChange<'_>,
    progress: Progress<'_>,
) -> Result<Written, StoreError> {
    let note = Some(Note::Progress(progress));
    settle(writer, &Task::Change(change), None, note).await
}

/// What [`change`] would write. Nothing is written.
pub(super) async fn rehearse(
    writer: &Writer,
    change: RepoChange<'_>,
) -> Result<Written, StoreError> {
    let task = Task::Change(change);
    let mut script = Script::default();
    read::push(&mut script, &Needs::of(&task));
    let (mut transaction, answers) = writer.begin_with(script).await?;
    let view = read::view(answers)?;
    let written = decide(&mut transaction, &view, &task, Timestamp::now())
        .await?
        .written;
    transaction.rollback().await?;
    Ok(written)
}

/// Moves the cursor to `position`, in either direction, and records `gap`, with the receipt of the
/// command that asked for it.
pub(super) async fn move_cursor(
    writer: &Writer,
    source: &SourceId,
    position: Position,
    gap: Option<&Gap>,
    receipt: Option<&Receipt>,
) -> Result<(), StoreError> {
    let effects: Vec<Effect> = gap.cloned().map(Effect::Gap).into_iter().collect();
    let task = Task::Batch {
        source,
        effects: &effects,
        through: Some(position.seq),
    };
    let cursor = CursorMove {
        source,
        position,
        is_forced: true,
    };
    settle(writer, &task, Some(cursor), receipt.map(Note::Receipt)).await?;
    Ok(())
}

/// Keeps what `sink` refuses. The letter's source is the sink.
pub(super) async fn keep_letter(
    writer: &Writer,
    sink: &str,
    letter: DeadLetter,
) -> Result<(), StoreError> {
    let source = SourceId::new(&format!("sink:{sink}"));
    let effects = [Effect::DeadLetter(Box::new(letter))];
    let task = Task::Batch {
        source: &source,
        effects: &effects,
        through: None,
    };
    settle(writer, &task, None, None).await?;
    Ok(())
}

/// Runs a task, and names its refused effects if there are any.
async fn settle(
    writer: &Writer,
    task: &Task<'_>,
    cursor: Option<CursorMove<'_>>,
    note: Option<Note<'_>>,
) -> Result<Written, StoreError> {
    match perform(writer, task, cursor, note).await {
        Ok(written) => Ok(written),
        Err(Failure::Store(error)) => Err(error),
        Err(Failure::Refused(error)) => Err(name_refused(writer, task, error).await?),
    }
}

/// Takes two trips to the database as a rule: one reads, one writes. Where commits are parked or
/// accounts are removed it takes a third. Arguments beyond the limit of a trip take more.
async fn perform(
    writer: &Writer,
    task: &Task<'_>,
    cursor: Option<CursorMove<'_>>,
    note: Option<Note<'_>>,
) -> Result<Written, Failure> {
    let now = Timestamp::now();
    let mut script = Script::default();
    read::push(&mut script, &Needs::of(task));
    let (mut transaction, answers) = writer.begin_with(script).await?;
    let view = read::view(answers).map_err(StoreError::from)?;
    let changes = decide(&mut transaction, &view, task, now).await;
    let changes = changes.map_err(StoreError::from)?;
    let writing = transaction.pass(Point::StoreWriting).await;
    writing.map_err(StoreError::from)?;
    let mut script = Script::default();
    commit::push(&mut script, &changes, &sortable(now));
    if let Some(cursor) = cursor {
        let CursorMove {
            source,
            position,
            is_forced,
        } = cursor;
        if is_forced {
            // An operator may have named a source that has no row yet.
            cursor::push_claim(&mut script, source);
        }
        cursor::push_advance(&mut script, source, view.cursor, position, is_forced);
    }
    match note {
        None => {}
        Some(Note::Progress(progress)) => {
            let value = (progress.after)(&changes.written);
            commands::push_progress(&mut script, progress.command, &value);
        }
        Some(Note::Receipt(receipt)) => {
            commands::push_receipt(&mut script, receipt, &sortable(now));
        }
    }
    let dids: Vec<&str> = changes.removals.keys().copied().collect();
    // What was read about parked frames has taken the third trip already. Then the housekeeping
    // deletes the rows of the removed accounts.
    match dids.is_empty() || view.parked.get().is_some() {
        true => transaction.commit_with(script).await?,
        false => removal::commit_with(transaction, script, &dids).await?,
    }
    Ok(changes.written)
}

/// Plans what `task` writes. Reads what is parked if the plan asks for it.
async fn decide<'a>(
    transaction: &mut Transaction<'_>,
    view: &'a View,
    task: &Task<'a>,
    now: Timestamp,
) -> Result<ChangeSet<'a>, sqlx::Error> {
    loop {
        match plan(view, task, Moment::at(now)) {
            Ok(changes) => return Ok(changes),
            Err(needs) => {
                let parked = read::parked(transaction, &needs).await?;
                // Nothing else sets it.
                let _set = view.parked.set(parked);
            }
        }
    }
}

/// Tries the parts of a refused task one by one, in a transaction that is rolled back, to find
/// those that are refused by themselves.
///
/// If none is, the cause is not in the effects (but in the cursor's own row, for example), and no
/// dead letter would help: then it returns `error`, with which the task was refused.
async fn name_refused(
    writer: &Writer,
    task: &Task<'_>,
    error: sqlx::Error,
) -> Result<StoreError, StoreError> {
    let Some((source, effects)) = task.effects() else {
        return Ok(error.into());
    };
    if is_group(task) {
        return Ok(StoreError::Rejected(Vec::new()));
    }
    let mut rejections = Vec::new();
    let mut trial = writer.begin().await?;
    for (index, effect) in effects.iter().enumerate() {
        for (record, part) in effect.parts() {
            trial.execute("SAVEPOINT part").await?;
            match try_alone(&mut trial, source, &part).await {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => {
                    trial.execute("ROLLBACK TO part").await?;
                    let effect = index;
                    rejections.push(Rejection {
                        part: EffectPart { effect, record },
                        reason: error.to_string(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
            trial.execute("RELEASE part").await?;
        }
    }
    trial.rollback().await?;
    if rejections.is_empty() {
        return Ok(error.into());
    }
    Ok(StoreError::Rejected(rejections))
}

/// Whether its parts are done one by one if it is refused.
fn is_group(task: &Task<'_>) -> bool {
    matches!(task, Task::Change(RepoChange::Replayed(replay)) if replay.count() > 1)
}

async fn try_alone(
    trial: &mut Transaction<'_>,
    source: &SourceId,
    part: &Effect,
) -> Result<(), sqlx::Error> {
    let now = Timestamp::now();
    let task = Task::Batch {
        source,
        effects: slice::from_ref(part),
        through: None,
    };
    let mut script = Script::default();
    read::push(&mut script, &Needs::of(&task));
    let view = read::view(trial.run(script).await?)?;
    let changes = decide(trial, &view, &task, now).await?;
    let mut script = Script::default();
    commit::push(&mut script, &changes, &sortable(now));
    trial.run(script).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Position;
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn a_full_disk_is_unavailable_and_a_new_connection_goes_on_once_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        // The limit belongs to the connection, so the next connection is without it.
        let mut transaction = store.writer.begin().await.unwrap();
        transaction
            .execute("PRAGMA max_page_count = 1")
            .await
            .unwrap();
        transaction.commit().await.unwrap();

        let raw = vec![0; 1_000_000].into();
        let letter = crate::model::DeadLetter {
            stage: crate::model::Stage::Decode,
            error: String::new(),
            seq: None,
            did: None,
            uri: None,
            task: None,
            raw,
            attempts: 1,
        };
        let batch = WriteBatch {
            source: &SourceId::new("wss://relay.example"),
            effects: &[Effect::DeadLetter(Box::new(letter))],
            position: Position { seq: 1, time: None },
            sequence_restarted: false,
        };
        let result = apply(&store.writer, &batch).await;
        assert!(
            matches!(&result, Err(StoreError::Unavailable(error)) if error.to_string().contains("full")),
            "{result:?}"
        );
        let written = apply(&store.writer, &batch).await.unwrap();
        assert_eq!(written.dead_letters, 1);
    }
}
