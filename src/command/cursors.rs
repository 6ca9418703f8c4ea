//! Commands that move the cursor of a source. Nothing is read meanwhile: see `Needs::StoppedPipeline`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::scope::{Act, Outcome, Run};
use super::{CommandError, CursorSet};
use crate::model::{Gap, GapCause, Position, SourceId};

/// A move of a cursor that can be made.
pub(super) struct Move<'a> {
    source: &'a SourceId,
    from: Position,
    to: Position,
    gap: Option<Gap>,
    note: Option<String>,
}

pub(super) async fn set<'a>(run: &Run<'_>, to: &'a CursorSet) -> Result<Move<'a>, CommandError> {
    let from = position(run, &to.source, to.new_source).await?;
    let is_ahead = to.seq > from.seq;
    if is_ahead && !to.accept_gap {
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
        source: &to.source,
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
        from: position(run, source, false).await?,
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
    let from = position(run, source, false).await?;
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

/// Where the cursor of a source is. A cursor of no source is that of the first one that asks for it. Unless it
/// may be new, a source that the database does not know although it knows others is refused: it is more
/// probably a forgotten `--source-url`. Nothing is written: a command that fails leaves no source behind.
async fn position(
    run: &Run<'_>,
    source: &SourceId,
    may_be_new: bool,
) -> Result<Position, CommandError> {
    let rows = run.scope.store.cursors().await?;
    let of = |wanted: Option<&str>| rows.iter().find(|row| row.source.as_deref() == wanted);
    if let Some(row) = of(Some(source.as_str())) {
        return Ok(row.position);
    }
    let known: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.source.as_deref())
        .collect();
    match known.is_empty() || may_be_new {
        true => Ok(of(None).map(|row| row.position).unwrap_or_default()),
        false => Err(CommandError::UnknownSource {
            source_id: source.clone(),
            known: known.join(", "),
        }),
    }
}
