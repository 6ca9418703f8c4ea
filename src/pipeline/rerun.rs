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
/// A piece in which frames are kept unread ends behind the first frame after this time: with its last frame
/// it takes less than the deadline of a command's step, which is 60 s. The rest is the next piece.
const PIECE_TIME: Duration = Duration::from_secs(20);
/// How long a piece waits for a frame. The stretch has been sent before, so there is one.
const SILENCE: Duration = Duration::from_secs(10);

/// A connection that reads a stretch.
pub struct Rerun {
    connection: Box<dyn Frames>,
    left: Left,
}

/// What a piece leaves to the next one.
#[derive(Debug, Default)]
struct Left {
    /// Frames that were read and are not processed.
    frames: Vec<Bytes>,
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
            left: Left::default(),
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
        let frames = match std::mem::take(&mut self.left.frames) {
            rest if rest.is_empty() => self.read().await?,
            rest => rest,
        };
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        let growth = crate::source::process::DECODING_GROWTH;
        let _work = context.budget.reserve_work(bytes * growth).await;
        let stretch = Stretch { after, to };
        let process = |frames, is_outdated| process_apart(context, frames, stretch, is_outdated);
        let mut piece = process_all(&mut self.left, frames, to, process).await?;
        context.interest.current().retain_wanted(&mut piece.effects);
        Ok(piece)
    }

    async fn read(&mut self) -> Result<Vec<Bytes>, RerunError> {
        let mut collected = FrameCollector::new(LIMITS);
        let reading = self.connection.read_batch(LINGER, &mut collected);
        let read = timeout(SILENCE, reading).await;
        let read = read.unwrap_or_else(|_elapsed| Ok(()));
        if collected.frames.is_empty() {
            read?;
            return Err(RerunError::Silence);
        }
        Ok(collected.frames)
    }
}

/// Processes frames up to the one with seq `to`. Where one makes its reader panic or hang, they are processed
/// one by one, and that one is kept unread.
async fn process_all<P>(
    left: &mut Left,
    frames: Vec<Bytes>,
    to: u64,
    process: impl Fn(Vec<Bytes>, bool) -> P,
) -> Result<Piece, RerunError>
where
    P: Future<Output = Option<Processed>>,
{
    let began = Instant::now();
    if let Some(processed) = process(frames.clone(), left.is_outdated).await {
        let (piece, is_outdated) = processed?;
        left.is_outdated = is_outdated;
        return Ok(piece);
    }
    let mut piece = Piece::default();
    let mut frames = frames.into_iter();
    while let Some(frame) = frames.next() {
        match process(vec![frame.clone()], left.is_outdated).await {
            Some(processed) => {
                let (one, is_outdated) = processed?;
                left.is_outdated = is_outdated;
                piece.add(one);
            }
            None => piece.add(unread(frame)),
        }
        if piece.refusal.is_some() || piece.last.is_some_and(|last| last >= to) {
            break;
        }
        if began.elapsed() >= PIECE_TIME {
            left.frames = frames.collect();
            break;
        }
    }
    Ok(piece)
}

/// Processes frames on a thread of its own. `None` if one of them makes that panic, or takes it too long.
async fn process_apart(
    context: &Arc<Context>,
    frames: Vec<Bytes>,
    stretch: Stretch,
    is_outdated: bool,
) -> Option<Processed> {
    let context = context.clone();
    let process = move || process(&context, &frames, stretch, is_outdated);
    let processing = timeout(PROCESSING_DEADLINE, tokio::task::spawn_blocking(process));
    processing.await.ok()?.ok()
}

impl Piece {
    fn add(&mut self, next: Self) {
        self.frames += next.frames;
        self.effects.extend(next.effects);
        self.last = next.last.or(self.last);
        self.refusal = self.refusal.take().or(next.refusal);
    }
}

/// A piece, and whether the source has said that the stretch is outdated.
type Processed = Result<(Piece, bool), RerunError>;

#[derive(Clone, Copy)]
struct Stretch {
    after: u64,
    to: u64,
}

fn process(
    context: &Context,
    frames: &[Bytes],
    stretch: Stretch,
    mut is_outdated: bool,
) -> Processed {
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn frames(count: u8) -> Vec<Bytes> {
        (0..count).map(|n| Bytes::from(vec![n])).collect()
    }

    /// However many frames hang, each piece ends within the deadline of a command's step, and the next one
    /// goes on behind it. Holds invariant 5.3.
    #[tokio::test(start_paused = true)]
    async fn a_piece_of_frames_that_hang_ends_in_time_and_leaves_the_rest() {
        let hang = async |_frames, _is_outdated| {
            sleep(PROCESSING_DEADLINE).await;
            None
        };
        let (mut left, mut kept) = (Left::default(), Vec::new());
        let mut next = frames(13);
        while !next.is_empty() {
            let began = Instant::now();
            let piece = process_all(&mut left, next, 100, hang).await.unwrap();
            assert!(began.elapsed() <= PIECE_TIME + PROCESSING_DEADLINE);
            assert!(piece.frames > 1 || left.frames.is_empty(), "{piece:?}");
            kept.extend(piece.effects.into_iter().map(|effect| match effect {
                Effect::DeadLetter(letter) => letter.raw,
                other => panic!("{other:?}"),
            }));
            next = std::mem::take(&mut left.frames);
        }
        assert_eq!(kept, frames(13));
    }

    /// What is behind the end of the stretch is not part of it.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_behind_the_end_of_the_stretch() {
        let process = async |frames: Vec<Bytes>, is_outdated| {
            let [frame] = &frames[..] else { return None };
            sleep(PIECE_TIME / 3).await;
            let piece = Piece {
                frames: 1,
                last: Some(98 + u64::from(frame[0])),
                ..Piece::default()
            };
            Some(Ok((piece, is_outdated)))
        };
        let mut left = Left::default();
        let piece = process_all(&mut left, frames(5), 100, process)
            .await
            .unwrap();
        assert_eq!((piece.frames, piece.last), (3, Some(100)));
        assert!(left.frames.is_empty());
    }
}
