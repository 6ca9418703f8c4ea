//! A source without a socket. Each connection follows the next script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use huddle_firehose::model::SourceId;
use huddle_firehose::source::error::{ConnectError, ReadError};
use huddle_firehose::source::frame_sink::FrameSink;
use huddle_firehose::source::{Frames, Resume, Source};
use tokio::time::{Instant, sleep};

use crate::observed_source;

/// A source of scripts. When all are used, a dial never ends.
pub struct ScriptedSource {
    id: SourceId,
    scripts: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<(Instant, Resume)>>,
}

/// The outcome of one attempt to connect.
pub enum Script {
    /// The attempt fails with this HTTP status.
    Refused(u16),
    /// The connection delivers these frames, and then nothing more.
    Silent(Vec<Bytes>),
    /// The connection delivers these frames, and is cut then.
    Cut(Vec<Bytes>),
    /// The same, with a pause before each frame.
    Paced(Vec<Bytes>, Duration),
}

struct ScriptedFrames {
    frames: VecDeque<Bytes>,
    is_cut: bool,
    pause: Duration,
}

impl ScriptedSource {
    pub fn new(scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Arc::new(Self {
            id: observed_source::id(),
            scripts: Mutex::new(scripts.into_iter().collect()),
            asked: Mutex::default(),
        })
    }

    /// When each attempt so far was made, and its resume point.
    pub fn asked(&self) -> Vec<(Instant, Resume)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Source for ScriptedSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>> {
        self.asked.lock().unwrap().push((Instant::now(), resume));
        let script = self.scripts.lock().unwrap().pop_front();
        async move {
            let (frames, is_cut, pause) = match script {
                None => std::future::pending().await,
                Some(Script::Refused(status)) => {
                    return Err(ConnectError::Http {
                        status,
                        retry_after: None,
                    });
                }
                Some(Script::Silent(frames)) => (frames, false, Duration::ZERO),
                Some(Script::Cut(frames)) => (frames, true, Duration::ZERO),
                Some(Script::Paced(frames, pause)) => (frames, true, pause),
            };
            let frames = ScriptedFrames {
                frames: frames.into(),
                is_cut,
                pause,
            };
            Ok(Box::new(frames) as Box<dyn Frames>)
        }
        .boxed()
    }
}

impl Frames for ScriptedFrames {
    fn read_batch<'a>(
        &'a mut self,
        _linger: Duration,
        into: &'a mut dyn FrameSink,
    ) -> BoxFuture<'a, Result<(), ReadError>> {
        async move {
            if !self.pause.is_zero() && !self.frames.is_empty() {
                sleep(self.pause).await;
                self.frames
                    .pop_front()
                    .into_iter()
                    .for_each(|frame| into.take(frame));
                return Ok(());
            }
            while !into.is_full() {
                match self.frames.pop_front() {
                    Some(frame) => into.take(frame),
                    None if self.is_cut => return Err(ReadError::Reset),
                    None if into.is_empty() => std::future::pending().await,
                    None => break,
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn ignored(&self) -> u64 {
        0
    }
}
