//! Commands that move the cursor of a source. Nothing is read meanwhile: see `Needs::StoppedPipeline`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::CommandError;
use super::scope::{Act, Outcome, Run};
use crate::model::{Gap, GapCause, Position, SourceId};
use crate::store::sqlite::CursorRow;

/// The new place of a cursor.
pub(super) struct MoveTo<'a> {
    pub(super) source: &'a SourceId,
    pub(super) seq: u64,
    /// Events may be left out.
    pub(super) accepts_gap: bool,
    /// The database may not know the source.
    pub(super) may_be_new: bool,
}

/// A move of a cursor that can be made.
pub(super) struct Move<'a> {
    source: &'a SourceId,
    from: Position,
    to: Position,
    gap: Option<Gap>,
    note: Option<String>,
}

pub(super) async fn set<'a>(run: &Run<'_>, to: MoveTo<'a>) -> Result<Move<'a>, CommandError> {
    let from = match to.may_be_new {
        true => stored(run, to.source).await?.unwrap_or_default(),
        false => position(run, to.source).await?,
    };
    let is_ahead = to.seq > from.seq;
    if is_ahead && !to.accepts_gap {
        return Err(CommandError::WouldLoseEvents {
            from: from.seq,
            to: to.seq,
        });
    }
    let gap = is_ahead.then_some(Gap {
        cause: GapCause::CursorMoved,
        from_seq: from.seq,
        from_time: from.time,
        to_seq: Some(to.seq),
        to_time: None,
    });
    let position = Position {
        seq: to.seq,
        time: None,
    };
    Ok(Move {
        source: to.source,
        from,
        to: position,
        gap,
        note: None,
    })
}

pub(super) async fn reset<'a>(
    run: &Run<'_>,
    source: &'a SourceId,
) -> Result<Move<'a>, CommandError> {
    Ok(Move {
        source,
        from: position(run, source).await?,
        to: Position::default(),
        gap: None,
        note: None,
    })
}

/// Moves the cursor to the newest mark that is older than its event by that time, or to the oldest one.
/// Where no event has a time, the worker's own times count.
pub(super) async fn rewind<'a>(
    run: &Run<'_>,
    source: &'a SourceId,
    by_seconds: u32,
) -> Result<Move<'a>, CommandError> {
    let from = position(run, source).await?;
    let by = SignedDuration::from_secs(i64::from(by_seconds));
    let begin = from.time.unwrap_or_else(Timestamp::now);
    let wanted = begin.saturating_sub(by).unwrap_or(Timestamp::MIN);
    let store = &run.scope.store;
    let mark = store.cursor_mark(source, from.seq, wanted).await?;
    let mark = mark.ok_or_else(|| CommandError::NoMarks(source.clone()))?;
    let note = match mark.is_old_enough {
        true => None,
        false => Some(format!(
            "no position of that time is known any more; this is the oldest one, of {}",
            mark.marked_at
        )),
    };
    Ok(Move {
        source,
        from,
        to: mark.position,
        gap: None,
        note,
    })
}

/// Makes a move.
pub(super) async fn put(run: &Run<'_>, planned: Move<'_>) -> Result<Outcome, CommandError> {
    let Move {
        source,
        from,
        to,
        gap,
        note,
    } = planned;
    let act = Act {
        before: Some(json!(from)),
        after: Some(json!(to)),
    };
    let result = json!({
        "source": source,
        "from": from,
        "to": to,
        "gap": gap.as_ref().map(gap_json),
        "note": note,
    });
    let receipt = run.receipt(act, result);
    let store = &run.scope.store;
    store
        .move_cursor_by_command(source, to, gap.as_ref(), &receipt)
        .await?;
    Ok(Outcome::Ended)
}

fn gap_json(gap: &Gap) -> Value {
    json!({ "cause": gap.cause.as_str(), "from_seq": gap.from_seq, "to_seq": gap.to_seq })
}

/// Where the cursor of a source is. A source that the database does not know although it knows others is
/// refused: it is more probably a forgotten `--source-url` than a new source.
async fn position(run: &Run<'_>, source: &SourceId) -> Result<Position, CommandError> {
    if let Some(position) = stored(run, source).await? {
        return Ok(position);
    }
    let rows = run.scope.store.cursors().await?;
    let known: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.source.as_deref())
        .collect();
    match known.is_empty() {
        true => Ok(Position::default()),
        false => Err(CommandError::UnknownSource {
            source_id: source.clone(),
            known: known.join(", "),
        }),
    }
}

/// What the database has of a source. A cursor of no source is that of the first one that asks for it. Nothing
/// is written: a command that fails leaves no source behind.
async fn stored(run: &Run<'_>, source: &SourceId) -> Result<Option<Position>, CommandError> {
    let rows = run.scope.store.cursors().await?;
    let of_source = |row: &&CursorRow| row.source.as_deref() == Some(source.as_str());
    let row = rows.iter().find(of_source);
    let row = row.or_else(|| rows.iter().find(|row| row.source.is_none()));
    Ok(row.map(|row| row.position))
}
