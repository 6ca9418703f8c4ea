//! Commands that move the cursor of a source. Nothing is read meanwhile: see `Needs::StoppedPipeline`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::CommandError;
use super::scope::{Act, Outcome, Run};
use crate::model::{Gap, GapCause, Position, SourceId};
use crate::store::Store;

/// The new place of a cursor.
pub(super) struct MoveTo<'a> {
    pub(super) source: &'a SourceId,
    pub(super) seq: u64,
    /// Events may be left out.
    pub(super) accepts_gap: bool,
    /// The database may not know the source.
    pub(super) may_be_new: bool,
}

pub(super) async fn set(run: &Run<'_>, to: MoveTo<'_>) -> Result<Outcome, CommandError> {
    if !to.may_be_new {
        check_source(run, to.source).await?;
    }
    let from = position(run, to.source).await?;
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
    put(run, to.source, from, position, gap, None).await
}

pub(super) async fn reset(run: &Run<'_>, source: &SourceId) -> Result<Outcome, CommandError> {
    check_source(run, source).await?;
    let from = position(run, source).await?;
    put(run, source, from, Position::default(), None, None).await
}

/// Moves the cursor to the newest mark that is older than its event by that time, or to the oldest one.
/// Where no event has a time, the worker's own times count.
pub(super) async fn rewind(
    run: &Run<'_>,
    source: &SourceId,
    by_seconds: u32,
) -> Result<Outcome, CommandError> {
    check_source(run, source).await?;
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
    put(run, source, from, mark.position, None, note).await
}

async fn put(
    run: &Run<'_>,
    source: &SourceId,
    from: Position,
    to: Position,
    gap: Option<Gap>,
    note: Option<String>,
) -> Result<Outcome, CommandError> {
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

async fn position(run: &Run<'_>, source: &SourceId) -> Result<Position, CommandError> {
    Ok(run.scope.store.load_cursor(source).await?.position)
}

/// Refuses a source that the database does not know although it knows others: it is more probably a
/// forgotten `--source-url` than a new source.
async fn check_source(run: &Run<'_>, source: &SourceId) -> Result<(), CommandError> {
    let rows = run.scope.store.cursors().await?;
    let known: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.source.as_deref())
        .collect();
    match known.is_empty() || known.contains(&source.as_str()) {
        true => Ok(()),
        false => Err(CommandError::UnknownSource {
            source_id: source.clone(),
            known: known.join(", "),
        }),
    }
}
