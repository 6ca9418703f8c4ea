//! Writes the raw frames of a source to a recording.

use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::{ConnectError, ReadError};
use super::frame_sink::{BatchLimits, FrameCollector};
use super::{Frames, Resume, Source};
use crate::testing::recording::{RecordingError, RecordingWriter};

const LIMITS: BatchLimits = BatchLimits {
    frames: 256,
    bytes: 4 * 1024 * 1024,
};
const LINGER: Duration = Duration::from_millis(5);

/// The size of a recording, and why it ended.
#[derive(Debug)]
pub struct Recorded {
    pub frames: u64,
    /// Bytes of the frames, without their length prefixes.
    pub bytes: u64,
    pub ending: Ending,
}

#[derive(Debug)]
pub enum Ending {
    /// No frame arrived within the allowed time.
    Idle,
    /// The connection ended. It is not restored, because a recording is one contiguous piece.
    Lost(ReadError),
    /// The caller requested it.
    Stopped,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot write the recording: {0}")]
    Write(#[from] RecordingError),
}

/// Records `source` from `resume` on, over one connection, until `stop` is cancelled, no frame has
/// arrived for `idle` (`None`: without limit), or the connection ends.
///
/// # Errors
/// If no connection could be made, or the recording could not be written. A lost connection is an
/// [`Ending`], not an error.
pub async fn record<W: AsyncWrite + Unpin>(
    source: &dyn Source,
    resume: Resume,
    writer: &mut RecordingWriter<W>,
    idle: Option<Duration>,
    stop: &CancellationToken,
) -> Result<Recorded, RecordError> {
    let mut recorded = Recorded {
        frames: 0,
        bytes: 0,
        ending: Ending::Stopped,
    };
    let Some(connected) = stop.run_until_cancelled(source.connect(resume)).await else {
        return Ok(recorded);
    };
    let mut connection = connected?;

    let mut batch = FrameCollector::new(LIMITS);
    loop {
        let ending = read(connection.as_mut(), &mut batch, idle, stop).await;
        for frame in batch.frames.drain(..) {
            writer.write(&frame).await?;
            recorded.frames += 1;
            recorded.bytes += frame.len() as u64;
        }
        if let Some(ending) = ending {
            writer.flush().await?;
            recorded.ending = ending;
            return Ok(recorded);
        }
    }
}

/// Reads frames into `batch`; `Some` if they are the last ones.
async fn read(
    connection: &mut dyn Frames,
    batch: &mut FrameCollector,
    idle: Option<Duration>,
    stop: &CancellationToken,
) -> Option<Ending> {
    let limit = idle.unwrap_or(Duration::MAX);
    let reading = timeout(limit, connection.read_batch(LINGER, batch));
    match stop.run_until_cancelled(reading).await {
        None => Some(Ending::Stopped),
        // A frame may have arrived at the last moment; then the source was not idle.
        Some(Err(_)) if batch.frames.is_empty() => Some(Ending::Idle),
        Some(Err(_) | Ok(Ok(()))) => None,
        Some(Ok(Err(error))) => Some(Ending::Lost(error)),
    }
}
