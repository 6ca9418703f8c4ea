//! A batch as one transaction.

use std::slice;

use jiff::{SignedDuration, Timestamp};
use sqlx::Executor;

use super::accounts::Absences;
use super::error::is_refusal;
use super::writer::{Transaction, Writer};
use super::{accounts, cursor, dead_letters, gaps, now, projections, records, repos};
use crate::fault::Point;
use crate::queue::effect::{Effect, EffectPart, Rejection};
use crate::source::SourceId;
use crate::store::fold::{Sorted, last_changes};
use crate::store::{StoreError, WriteBatch, Written};

/// How long the host of an account that is said to be gone, and commits, is left alone in between.
const ABSENCE_QUESTION_SPACING: SignedDuration = SignedDuration::from_mins(1);

/// Where effects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Stream,
    /// From what had to wait.
    Queue,
    /// From a repository that was fetched as a whole.
    Snapshot,
}

pub(super) async fn apply(writer: &Writer, batch: &WriteBatch<'_>) -> Result<Written, StoreError> {
    let mut transaction = writer.begin().await?;
    let written = write(&mut transaction, batch).await;
    conclude(writer, transaction, written, batch.source, batch.effects).await
}

/// Commits what was written. Where it was refused, tells which of `effects` are to blame.
pub(super) async fn conclude<T>(
    writer: &Writer,
    transaction: Transaction<'_>,
    written: Result<T, sqlx::Error>,
    source: &SourceId,
    effects: &[Effect],
) -> Result<T, StoreError> {
    match written {
        Ok(written) => {
            transaction.commit().await?;
            Ok(written)
        }
        Err(error) if is_refusal(&error) => {
            transaction.rollback().await?;
            Err(name_refused(writer, source, effects, error).await?)
        }
        Err(error) => Err(error.into()),
    }
}

async fn write(
    transaction: &mut Transaction<'_>,
    batch: &WriteBatch<'_>,
) -> Result<Written, sqlx::Error> {
    let written = write_effects(transaction, batch.source, batch.effects, Origin::Stream).await?;
    transaction.pass(Point::StoreWriting).await?;
    cursor::advance(
        transaction,
        batch.source,
        batch.position,
        batch.sequence_restarted,
    )
    .await?;
    Ok(written)
}

/// Accounts come first, so that a deletion within the batch removes what the batch itself brings
/// from before it, wherever in the batch it stands.
pub(super) async fn write_effects(
    transaction: &mut Transaction<'_>,
    source: &SourceId,
    effects: &[Effect],
    origin: Origin,
) -> Result<Written, sqlx::Error> {
    let now = now();
    let sorted = Sorted::new(effects);

    let returned = match sorted.statuses.is_empty() {
        true => false,
        false => accounts::note_returns(transaction, &sorted).await?,
    };
    accounts::write_statuses(transaction, &sorted.statuses).await?;
    accounts::write_handles(transaction, &sorted.handles).await?;
    accounts::remove(transaction, &sorted.removals).await?;
    transaction.pass(Point::StoreWriting).await?;

    let Absences {
        removed_at,
        is_any_gone,
    } = accounts::absences(transaction, &sorted.repos()).await?;
    for gap in &sorted.gaps {
        gaps::open(transaction, source, gap, &now).await?;
    }
    // Before the steps: a chain that begins behind what is doubted tells nothing of that.
    let doubted = repos::doubt(transaction, &sorted.doubts, &now).await?;
    let is_their_turn = origin == Origin::Queue;
    let judged = repos::judge_steps(transaction, &sorted, &removed_at, is_their_turn).await?;
    let admitted = sorted
        .records
        .iter()
        .filter(|(_, step)| judged.admits(*step));
    let changes = last_changes(admitted.map(|(change, _)| *change), &removed_at);
    let accepted = records::write(transaction, source, &changes, &now).await?;
    transaction.pass(Point::StoreWriting).await?;
    projections::write(transaction, &accepted, &now).await?;
    transaction.pass(Point::StoreWriting).await?;
    repos::write_steps(
        transaction,
        source,
        &sorted.steps,
        &judged,
        is_their_turn,
        &now,
    )
    .await?;
    if origin != Origin::Snapshot {
        let unchained = sorted.unchained(&removed_at);
        repos::write_unchained(transaction, source, unchained, &now).await?;
    }
    transaction.pass(Point::StoreWriting).await?;

    if is_any_gone {
        let commits = judged.believed_or_waiting(&sorted.steps);
        let ask_at = Timestamp::now().checked_add(ABSENCE_QUESTION_SPACING);
        accounts::doubt_absence(transaction, commits, ask_at.unwrap_or(Timestamp::MAX)).await?;
    }

    let mut written = Written {
        records: accepted.len() as u64,
        stale: (sorted.records.len() - accepted.len()) as u64,
        dead_letters: 0,
        waiting: judged.waiting(),
        leaves_work: returned || doubted || judged.waiting() > 0,
    };
    for letter in &sorted.dead_letters {
        written.dead_letters += dead_letters::write(transaction, source, letter, &now).await?;
    }
    Ok(written)
}

/// Tries the parts of a refused batch one by one, in a transaction that is rolled back, to find
/// those that are refused by themselves.
///
/// Where none is, the trouble is not in the effects (the cursor's own row, say), and no dead letter
/// would mend it: then `error`, by which the batch was refused, is the database's.
async fn name_refused(
    writer: &Writer,
    source: &SourceId,
    effects: &[Effect],
    error: sqlx::Error,
) -> Result<StoreError, StoreError> {
    let mut rejections = Vec::new();
    let mut trial = writer.begin().await?;
    for (index, effect) in effects.iter().enumerate() {
        for (record, part) in effect.parts() {
            trial.execute("SAVEPOINT part").await?;
            let alone = slice::from_ref(&part);
            match write_effects(&mut trial, source, alone, Origin::Stream).await {
                Ok(_) => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Position;
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn a_full_disk_is_unavailable_and_a_new_connection_goes_on_once_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        // The limit is the connection's own, so the next one is without it.
        let mut transaction = store.writer.begin().await.unwrap();
        transaction
            .execute("PRAGMA max_page_count = 1")
            .await
            .unwrap();
        transaction.commit().await.unwrap();

        let raw = vec![0; 1_000_000].into();
        let letter = crate::queue::effect::DeadLetter {
            stage: crate::queue::effect::Stage::Decode,
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
