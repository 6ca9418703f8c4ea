//! Reads a stretch of the source again, on a second connection. The live one, its cursor and the gaps
//! know nothing of it: what comes is compared with the tables, which keep what is newer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::Context;
use crate::atproto::event::Event;
use crate::model::{DeadLetter, Stage};
use crate::source::error::{ConnectError, ReadError};
use crate::source::firehose::decode::{Content, decode};
use crate::source::frame_sink::{BatchLimits, FrameCollector};
use crate::source::{Frames, Resume};
use crate::store::plan::effect::Effect;

/// The frames of one piece, which is one transaction.
const LIMITS: BatchLimits = BatchLimits {
    frames: 100,
    bytes: 1 << 20,
};
const LINGER: Duration = Duration::from_millis(20);
/// How long the frames of a piece may take their reader. One that takes it longer is kept unread.
const PROCESSING_DEADLINE: Duration = Duration::from_secs(5);
/// How long a piece waits for a frame. The stretch has been sent before, so there is one.
const SILENCE: Duration = Duration::from_secs(10);

/// A connection that reads a stretch.
pub struct Rerun {
    connection: Box<dyn Frames>,
    /// The source has said that it does not hold the events behind the position that was asked for.
    is_outdated: bool,
}

/// What one piece has brought.
#[derive(Debug, Default)]
pub struct Piece {
    pub frames: u64,
    pub effects: Vec<Effect>,
    /// The seq of the last event, which may lie beyond the end of the stretch.
    pub last: Option<u64>,
    /// Why the stretch cannot be read.
    pub refusal: Option<Refused>,
}

/// Why a stretch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the source says that seq {0} is ahead of it")]
    Ahead(u64),
    #[error(
        "the source does not hold the events behind seq {after} any more; its oldest is seq {oldest}"
    )]
    Outdated { after: u64, oldest: u64 },
}

/// Why a piece has brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the source has sent nothing for {} s", SILENCE.as_secs())]
    Silence,
    #[error("the source ended the stream: {0}")]
    Ended(String),
}

impl Rerun {
    /// Connects behind the event with seq `after`.
    ///
    /// # Errors
    /// If the source cannot be reached.
    pub async fn connect(context: &Context, after: u64) -> Result<Self, RerunError> {
        let resume = match after {
            0 => Resume::Oldest,
            seq => Resume::After(seq),
        };
        Ok(Self {
            connection: context.source.connect(resume).await?,
            is_outdated: false,
        })
    }

    /// Reads and processes the next piece of the events behind `after` up to `to`.
    ///
    /// # Errors
    /// If the connection is lost. What was read before is dropped, and comes again.
    pub async fn next(
        &mut self,
        context: &Arc<Context>,
        after: u64,
        to: u64,
    ) -> Result<Piece, RerunError> {
        let mut collected = FrameCollector::new(LIMITS);
        let reading = self.connection.read_batch(LINGER, &mut collected);
        let read = timeout(SILENCE, reading).await;
        let read = read.unwrap_or_else(|_elapsed| Ok(()));
        if collected.frames.is_empty() {
            read?;
            return Err(RerunError::Silence);
        }
        let bytes: usize = collected.frames.iter().map(Bytes::len).sum();
        let growth = crate::source::process::DECODING_GROWTH;
        let _work = context.budget.reserve_work(bytes * growth).await;
        let stretch = Stretch { after, to };
        let (mut piece, outdated) =
            process_all(context, collected.frames, stretch, self.is_outdated).await?;
        self.is_outdated = outdated;
        context.interest.current().retain_wanted(&mut piece.effects);
        Ok(piece)
    }
}

#[derive(Clone, Copy)]
struct Stretch {
    after: u64,
    to: u64,
}

/// Processes frames on a thread of its own. Where one makes that panic or hang, they are processed one by
/// one, and that one is kept unread.
async fn process_all(
    context: &Arc<Context>,
    frames: Vec<Bytes>,
    stretch: Stretch,
    is_outdated: bool,
) -> Result<(Piece, bool), RerunError> {
    if let Some(processed) = process_apart(context, frames.clone(), stretch, is_outdated).await {
        return processed;
    }
    let (mut joined, mut outdated) = (Piece::default(), is_outdated);
    for frame in frames {
        let piece = match process_apart(context, vec![frame.clone()], stretch, outdated).await {
            Some(processed) => {
                let (piece, is_outdated) = processed?;
                outdated = is_outdated;
                piece
            }
            None => unread(frame),
        };
        joined.frames += piece.frames;
        joined.effects.extend(piece.effects);
        joined.last = piece.last.or(joined.last);
        joined.refusal = joined.refusal.or(piece.refusal);
        if joined.refusal.is_some() || joined.last.is_some_and(|last| last >= stretch.to) {
            break;
        }
    }
    Ok((joined, outdated))
}

/// Processes frames on a thread of its own. `None` if one of them makes that panic, or takes it too long.
async fn process_apart(
    context: &Arc<Context>,
    frames: Vec<Bytes>,
    stretch: Stretch,
    is_outdated: bool,
) -> Option<Result<(Piece, bool), RerunError>> {
    let context = context.clone();
    let process = move || process(&context, &frames, stretch, is_outdated);
    let processing = timeout(PROCESSING_DEADLINE, tokio::task::spawn_blocking(process));
    processing.await.ok()?.ok()
}

fn process(
    context: &Context,
    frames: &[Bytes],
    stretch: Stretch,
    mut is_outdated: bool,
) -> Result<(Piece, bool), RerunError> {
    let Stretch { after, to } = stretch;
    let mut piece = Piece::default();
    let interest = context.interest.current();
    for frame in frames {
        context.faults.touch(frame);
        let (seq, content) = match decode(frame, &interest) {
            Ok(decoded) => (decoded.seq, Ok((decoded.content, decoded.evidence))),
            Err(error) => (error.seq, Err(error)),
        };
        if let Some(seq) = seq {
            if is_outdated {
                let oldest = seq;
                piece.refusal = Some(Refused::Outdated { after, oldest });
                break;
            }
            piece.last = Some(seq);
            // A server may send the event at the cursor once more.
            if seq <= after {
                continue;
            }
            if seq > to {
                break;
            }
        }
        piece.frames += 1;
        match content {
            Err(error) => {
                let letter = Box::new(error.dead_letter(frame));
                piece.effects.push(Effect::DeadLetter(letter));
            }
            Ok((Content::Event(Event::Info(info)), _)) => {
                is_outdated |= info.name == "OutdatedCursor" && after > 0;
            }
            Ok((Content::Event(event), evidence)) => {
                let processor = &context.processor;
                let effects = processor.effects_of(event, evidence.as_ref(), frame, Instant::now());
                piece.effects.extend(effects);
            }
            Ok((
                Content::Error {
                    name: "FutureCursor",
                    ..
                },
                _,
            )) => {
                piece.refusal = Some(Refused::Ahead(after));
                break;
            }
            Ok((Content::Error { name, message }, _)) => {
                let message = message.unwrap_or_default();
                return Err(RerunError::Ended(format!("{name} {message}")));
            }
            Ok((Content::Unknown { .. } | Content::Unwanted, _)) => {}
        }
    }
    Ok((piece, is_outdated))
}

/// A frame that is kept unread.
fn unread(frame: Bytes) -> Piece {
    let letter = DeadLetter {
        stage: Stage::Poison,
        error: "makes its reader panic or hang".to_owned(),
        seq: None,
        did: None,
        uri: None,
        task: None,
        raw: frame,
        attempts: 1,
    };
    Piece {
        frames: 1,
        effects: vec![Effect::DeadLetter(Box::new(letter))],
        ..Piece::default()
    }
}
