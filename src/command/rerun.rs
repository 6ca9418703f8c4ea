//! Reads a stretch of the stream again beside the live one, in pieces. Its position is the progress of the
//! command, which is written in the transaction of each piece.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::CommandError;
use super::scope::{Act, Live, Outcome, Run};
use super::sources::{check_followed, subject};
use crate::model::SourceId;
use crate::pipeline::rerun::{Piece, Rerun, RerunError};
use crate::store::plan::effect::Effect;
use crate::store::sqlite::Progress;
use crate::store::{Store, StoreError, Written};

/// The pause after a connection that was lost or could not be made, and while the source is paused.
const RETRY: Duration = Duration::from_secs(5);
/// A piece is followed by a pause as long as it took, at most this.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The connection of the stretch that was read last, with the id of its command and its position. While a
/// piece is in progress, the piece has it.
#[derive(Clone, Default)]
pub struct Reruns(Arc<Mutex<Option<Open>>>);

impl Reruns {
    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection, unless it is that of one of these commands.
    pub(super) fn keep_only(&self, open_commands: &[i64]) {
        self.lock()
            .take_if(|open| !open_commands.contains(&open.command));
    }
}

struct Open {
    command: i64,
    at: u64,
    rerun: Rerun,
}

/// How far a stretch is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stretch {
    from: u64,
    to: u64,
    /// The seq up to which everything is durable.
    at: u64,
    frames: u64,
    /// Rows that were written.
    records: u64,
    /// Changes that the tables had already, or something newer.
    stale: u64,
    dead_letters: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
}

impl Stretch {
    fn json(&self) -> Value {
        json!(self)
    }

    fn after(&self, frames: u64, at: u64, written: &Written) -> Self {
        Self {
            at,
            frames: self.frames + frames,
            records: self.records + written.records,
            stale: self.stale + written.stale,
            dead_letters: self.dead_letters + written.dead_letters,
            waits_for: None,
            ..self.clone()
        }
    }

    fn waiting(mut self, reason: String) -> Outcome {
        self.waits_for = Some(reason);
        Outcome::Later {
            progress: self.json(),
            wait: RETRY,
        }
    }
}

/// Reads one piece. The stretch ends at `to`, or where the live cursor was at the beginning.
pub(super) async fn rerun(
    run: &Run<'_>,
    source: &SourceId,
    from: u64,
    to: Option<u64>,
) -> Result<Outcome, CommandError> {
    let Some(live) = &run.scope.live else {
        return Err(CommandError::NoWorker);
    };
    check_followed(live, source)?;
    let Some(stretch) = run.progress::<Stretch>() else {
        return begin(run, source, from, to).await;
    };
    if run
        .scope
        .store
        .pauses()
        .await?
        .contains_key(&subject(source))
    {
        live.reruns.lock().take();
        return Ok(stretch.waiting("the source is paused".to_owned()));
    }
    let began = Instant::now();
    // It goes back behind the commit. Whatever ends this piece before that closes the connection, so what
    // was read of it comes again.
    let open = live.reruns.lock().take();
    let (mut open, piece) = match next(live, open, run.row.id, &stretch).await {
        Ok(next) => next,
        Err(error) => return Ok(stretch.waiting(error.to_string())),
    };
    if let Some(refusal) = piece.refusal {
        return Err(refusal.into());
    }
    // What cannot be placed in the stream is behind what was read before it.
    let at = piece
        .last
        .unwrap_or(stretch.at)
        .clamp(stretch.at, stretch.to);
    let written = write(run, live, &stretch, &piece, at).await?;
    let stretch = stretch.after(piece.frames, at, &written);
    if let Some(repositories) = live
        .context
        .repositories
        .as_ref()
        .filter(|_| written.leaves_work)
    {
        repositories.wake();
    }
    if stretch.at >= stretch.to {
        return Ok(over(&stretch));
    }
    open.at = stretch.at;
    *live.reruns.lock() = Some(open);
    let wait = began.elapsed().min(LONGEST_PAUSE);
    Ok(Outcome::Noted { wait })
}

async fn begin(
    run: &Run<'_>,
    source: &SourceId,
    from: u64,
    to: Option<u64>,
) -> Result<Outcome, CommandError> {
    let store = &run.scope.store;
    let cursor = store.load_cursor(source).await?.position.seq;
    let to = to.unwrap_or(cursor);
    if from >= to {
        return Err(CommandError::NothingBetween { from, to });
    }
    let stretch = Stretch {
        from,
        to,
        at: from,
        frames: 0,
        records: 0,
        stale: 0,
        dead_letters: 0,
        waits_for: None,
    };
    let act = Act {
        before: None,
        after: Some(json!({ "from": from, "to": to })),
    };
    Ok(run.begin(stretch.json(), act).await?)
}

/// The next piece, from the connection that is open for this command at this position, or from a new one.
async fn next(
    live: &Live,
    open: Option<Open>,
    command: i64,
    stretch: &Stretch,
) -> Result<(Open, Piece), RerunError> {
    let context = &live.context;
    let is_ours = |open: &Open| open.command == command && open.at == stretch.at;
    let mut open = match open.filter(is_ours) {
        Some(open) => open,
        None => Open {
            command,
            at: stretch.at,
            rerun: Rerun::connect(context, stretch.at).await?,
        },
    };
    let piece = open.rerun.next(context, stretch.at, stretch.to).await?;
    Ok((open, piece))
}

/// Applies a piece. What the database refuses becomes dead letters.
async fn write(
    run: &Run<'_>,
    live: &Live,
    stretch: &Stretch,
    piece: &Piece,
    at: u64,
) -> Result<Written, CommandError> {
    let (store, source) = (&run.scope.store, live.context.source.id());
    let json = |written: &Written| stretch.after(piece.frames, at, written).json();
    let progress = Progress {
        command: run.row.id,
        after: &json,
    };
    let (effects, written) = match store.write_again(source, &piece.effects, progress).await {
        Err(StoreError::Rejected(rejections)) => {
            let effects = Effect::without_refused(piece.effects.clone(), source, rejections);
            let written = store.write_again(source, &effects, progress).await?;
            (Cow::Owned(effects), written)
        }
        written => (Cow::Borrowed(&piece.effects), written?),
    };
    live.context.note_dead_letters(effects.iter());
    Ok(written)
}

fn over(stretch: &Stretch) -> Outcome {
    Outcome::Done {
        act: Act {
            before: None,
            after: Some(stretch.json()),
        },
        result: stretch.json(),
        asked: None,
    }
}
