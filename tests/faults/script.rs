//! A source that sends what it was given, in pieces, and breaks off now and then.

use std::sync::Mutex;

use bytes::Bytes;
use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use huddle_firehose::protocol::skim::seq_of;
use huddle_firehose::source::error::{ConnectError, ReadError};
use huddle_firehose::source::{BatchLimits, Frames, Resume, Source, SourceId};

pub(crate) struct ScriptedSource {
    id: SourceId,
    frames: Vec<Bytes>,
    rng: Mutex<Rng>,
}

struct ScriptedFrames {
    /// Last first.
    rest: Vec<Bytes>,
    /// After so many frames the connection is lost.
    lost_after: Option<usize>,
    /// The event at the cursor is sent again, as some servers do.
    rng: Rng,
}

impl ScriptedSource {
    pub(crate) fn new(frames: Vec<Bytes>, seed: u64) -> Self {
        Self {
            id: SourceId::new("ws://script.test/"),
            frames,
            rng: Mutex::new(Rng::with_seed(seed)),
        }
    }
}

impl Source for ScriptedSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>> {
        let mut rng = self.rng.lock().unwrap().fork();
        let is_inclusive = rng.bool();
        let after = resume.cursor().expect("nobody asked for the live end");
        let mut rest: Vec<Bytes> = self
            .frames
            .iter()
            .filter(|frame| {
                let seq = seq_of(frame).unwrap();
                seq > after || (is_inclusive && seq == after)
            })
            .cloned()
            .collect();
        rest.reverse();
        let lost_after = (rng.u8(..) < 80).then(|| rng.usize(1..150));
        let frames = ScriptedFrames {
            rest,
            lost_after,
            rng,
        };
        async move { Ok(Box::new(frames) as Box<dyn Frames>) }.boxed()
    }
}

impl Frames for ScriptedFrames {
    fn read_batch<'a>(
        &'a mut self,
        limits: BatchLimits,
        into: &'a mut Vec<Bytes>,
    ) -> BoxFuture<'a, Result<(), ReadError>> {
        async move {
            tokio::time::sleep(std::time::Duration::from_micros(self.rng.u64(0..3000))).await;
            let count = self.rng.usize(1..=limits.frames);
            for _ in 0..count {
                match &mut self.lost_after {
                    Some(0) => return Err(ReadError::Reset),
                    Some(left) => *left -= 1,
                    None => {}
                }
                match self.rest.pop() {
                    Some(frame) => into.push(frame),
                    None if into.is_empty() => std::future::pending().await,
                    None => return Ok(()),
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
