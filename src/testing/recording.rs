//! Recordings: a source's raw frames in a file, each as `[u32 big-endian length][frame]`.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::atproto::skim::MAX_FRAME_BYTES;

/// A recording that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("{}: {error}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        error: Box<RecordingError>,
    },

    #[error(transparent)]
    Io(#[from] io::Error),

    #[error("a frame of {bytes} bytes at offset {offset}, {MAX_FRAME_BYTES} are allowed")]
    TooLarge { offset: usize, bytes: usize },

    /// The writer was interrupted, or the file is not a recording.
    #[error("the recording ends within the frame at offset {offset}")]
    Truncated { offset: usize },
}

/// An iterator over the frames of a recording, without copies. It ends after an error.
#[derive(Clone, Debug)]
pub struct Recording {
    rest: Bytes,
    offset: usize,
}

/// Appends frames to a recording.
#[derive(Debug)]
pub struct RecordingWriter<W> {
    file: W,
}

/// Loads all frames of the recording at `path`. It blocks, so do not call it on an async thread.
///
/// # Errors
/// A recording that ends within a frame is an error, even if frames came before.
pub fn load(path: &Path) -> Result<Vec<Bytes>, RecordingError> {
    let frames = std::fs::read(path)
        .map_err(RecordingError::from)
        .and_then(|recording| Recording::of(recording.into()).collect());
    frames.map_err(|error| RecordingError::File {
        path: path.to_owned(),
        error: Box::new(error),
    })
}

// === impl Recording ===

impl Recording {
    pub fn of(recording: Bytes) -> Self {
        Self {
            rest: recording,
            offset: 0,
        }
    }

    fn read(&mut self) -> Result<Bytes, RecordingError> {
        let offset = self.offset;
        let truncated = RecordingError::Truncated { offset };
        let Ok(length) = self.rest.try_get_u32() else {
            return Err(truncated);
        };
        let bytes = length as usize;
        if bytes > MAX_FRAME_BYTES {
            return Err(RecordingError::TooLarge { offset, bytes });
        }
        if self.rest.len() < bytes {
            return Err(truncated);
        }
        self.offset += size_of::<u32>() + bytes;
        Ok(self.rest.split_to(bytes))
    }
}

impl Iterator for Recording {
    type Item = Result<Bytes, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.read();
        if frame.is_err() {
            self.rest.clear();
        }
        Some(frame)
    }
}

// === impl RecordingWriter ===

impl<W: AsyncWrite + Unpin> RecordingWriter<W> {
    /// Writes to `file`, which should be buffered.
    pub fn new(file: W) -> Self {
        Self { file }
    }

    /// Appends one frame. Not cancel-safe: a dropped call may leave part of a frame.
    ///
    /// # Errors
    /// Refuses a frame that is too long for a reader.
    pub async fn write(&mut self, frame: &[u8]) -> Result<(), RecordingError> {
        let length = u32::try_from(frame.len())
            .ok()
            .filter(|_| frame.len() <= MAX_FRAME_BYTES);
        let length = length.ok_or(RecordingError::TooLarge {
            offset: 0,
            bytes: frame.len(),
        })?;
        self.file.write_all(&length.to_be_bytes()).await?;
        self.file.write_all(frame).await?;
        Ok(())
    }

    /// Writes the buffered bytes to the file.
    pub async fn flush(&mut self) -> Result<(), RecordingError> {
        Ok(self.file.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(recording: &[u8]) -> Vec<Result<Bytes, RecordingError>> {
        Recording::of(Bytes::copy_from_slice(recording)).collect()
    }

    #[tokio::test]
    async fn written_frames_can_be_read() {
        let frames: [&[u8]; 3] = [b"one", b"", b"three"];
        let mut file = Vec::new();
        let mut writer = RecordingWriter::new(&mut file);
        for frame in frames {
            writer.write(frame).await.unwrap();
        }
        let read: Vec<Bytes> = read(&file).into_iter().map(Result::unwrap).collect();
        assert_eq!(read, frames);
    }

    #[test]
    fn an_empty_file_is_an_empty_recording() {
        assert!(read(b"").is_empty());
    }

    #[test]
    fn a_truncated_tail_is_an_error_and_earlier_frames_are_kept() {
        let whole = b"\0\0\0\x02ab\0\0\0\x03cde";
        for cut in 7..whole.len() {
            let frames = read(&whole[..cut]);
            assert_eq!(frames[0].as_ref().unwrap(), "ab");
            assert!(matches!(
                frames[1],
                Err(RecordingError::Truncated { offset: 6 })
            ));
            assert_eq!(frames.len(), 2);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let frames = read(b"\xff\xff\xff\xffx");
        assert!(matches!(
            frames[..],
            [Err(RecordingError::TooLarge { offset: 0, .. })]
        ));
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_not_written() {
        let mut file = Vec::new();
        let refused = RecordingWriter::new(&mut file)
            .write(&vec![0; MAX_FRAME_BYTES + 1])
            .await;
        assert!(matches!(refused, Err(RecordingError::TooLarge { .. })));
        assert!(file.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(recording: Vec<u8>) {
            let _ = read(&recording);
        }
    }
}
