//! A WebSocket source that has the same id for every relay, so that tables can be compared. It
//! records where its connections resumed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use huddle_firehose::model::SourceId;
use huddle_firehose::source::error::{ConnectError, ReadError};
use huddle_firehose::source::firehose::websocket::{WebSocketOptions, WebSocketSource};
use huddle_firehose::source::frame_sink::FrameSink;
use huddle_firehose::source::{Frames, Resume, Source};
use huddle_firehose::testing::mock_relay::MockRelay;

pub struct Observed {
    id: SourceId,
    relay: WebSocketSource,
    asked: Mutex<Vec<Resume>>,
    taken_bytes: Arc<AtomicUsize>,
}

struct Counted {
    frames: Box<dyn Frames>,
    taken_bytes: Arc<AtomicUsize>,
}

/// Counts the bytes that it passes on.
struct Counting<'a> {
    into: &'a mut dyn FrameSink,
    taken_bytes: &'a AtomicUsize,
}

/// The id of every [`Observed`] source that is not [`Observed::named`].
pub fn id() -> SourceId {
    SourceId::new("ws://relay.test/xrpc/com.atproto.sync.subscribeRepos")
}

impl Observed {
    pub fn at(relay: &MockRelay) -> Arc<Self> {
        Self::at_url(&relay.url())
    }

    pub fn at_url(url: &str) -> Arc<Self> {
        Self::with_options(url, WebSocketOptions::default())
    }

    pub fn with_options(url: &str, options: WebSocketOptions) -> Arc<Self> {
        Self::named(id(), url, options)
    }

    /// A source with an id of its own.
    pub fn named(id: SourceId, url: &str, options: WebSocketOptions) -> Arc<Self> {
        Arc::new(Self {
            id,
            relay: WebSocketSource::try_new(url.parse().unwrap(), options).unwrap(),
            asked: Mutex::default(),
            taken_bytes: Arc::default(),
        })
    }

    /// The resume point of each connection so far.
    pub fn asked(&self) -> Vec<Resume> {
        self.asked.lock().unwrap().clone()
    }

    /// The bytes of the frames that were read from the socket so far.
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes.load(Ordering::SeqCst)
    }
}

impl Source for Observed {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>> {
        self.asked.lock().unwrap().push(resume);
        async move {
            let counted = Counted {
                frames: self.relay.connect(resume).await?,
                taken_bytes: self.taken_bytes.clone(),
            };
            Ok(Box::new(counted) as Box<dyn Frames>)
        }
        .boxed()
    }
}

impl FrameSink for Counting<'_> {
    fn take(&mut self, frame: Bytes) {
        self.taken_bytes.fetch_add(frame.len(), Ordering::SeqCst);
        self.into.take(frame);
    }

    fn is_empty(&self) -> bool {
        self.into.is_empty()
    }

    fn is_full(&self) -> bool {
        self.into.is_full()
    }
}

impl Frames for Counted {
    fn read_batch<'a>(
        &'a mut self,
        linger: Duration,
        into: &'a mut dyn FrameSink,
    ) -> BoxFuture<'a, Result<(), ReadError>> {
        async move {
            let mut counting = Counting {
                into,
                taken_bytes: &self.taken_bytes,
            };
            self.frames.read_batch(linger, &mut counting).await
        }
        .boxed()
    }

    fn ignored(&self) -> u64 {
        self.frames.ignored()
    }
}
