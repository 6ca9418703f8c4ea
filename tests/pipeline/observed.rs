//! A WebSocket source under a name that stays the same whichever relay is behind it, so that tables
//! can be compared; it remembers what was asked of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use huddle_firehose::source::error::{ConnectError, ReadError};
use huddle_firehose::source::mock_relay::MockRelay;
use huddle_firehose::source::websocket::{WebSocketOptions, WebSocketSource};
use huddle_firehose::source::{BatchLimits, Frames, Resume, Source, SourceId};

pub(crate) struct Observed {
    id: SourceId,
    relay: WebSocketSource,
    asked: Mutex<Vec<Resume>>,
    taken_bytes: Arc<AtomicUsize>,
}

struct Counted {
    frames: Box<dyn Frames>,
    taken_bytes: Arc<AtomicUsize>,
}

/// What every [`Observed`] source is called.
pub(crate) fn id() -> SourceId {
    SourceId::new("ws://relay.test/xrpc/com.atproto.sync.subscribeRepos")
}

impl Observed {
    pub(crate) fn at(relay: &MockRelay) -> Arc<Self> {
        Self::at_url(&relay.url())
    }

    pub(crate) fn at_url(url: &str) -> Arc<Self> {
        Self::with_options(url, WebSocketOptions::default())
    }

    pub(crate) fn with_options(url: &str, options: WebSocketOptions) -> Arc<Self> {
        Arc::new(Self {
            id: id(),
            relay: WebSocketSource::try_new(url.parse().unwrap(), options).unwrap(),
            asked: Mutex::default(),
            taken_bytes: Arc::default(),
        })
    }

    /// Where each connection so far was to begin.
    pub(crate) fn asked(&self) -> Vec<Resume> {
        self.asked.lock().unwrap().clone()
    }

    /// The bytes of the frames that were taken from the socket so far.
    pub(crate) fn taken_bytes(&self) -> usize {
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

impl Frames for Counted {
    fn read_batch<'a>(
        &'a mut self,
        limits: BatchLimits,
        into: &'a mut Vec<Bytes>,
    ) -> BoxFuture<'a, Result<(), ReadError>> {
        async move {
            let before = into.len();
            let outcome = self.frames.read_batch(limits, into).await;
            let taken = into[before..].iter().map(Bytes::len).sum();
            self.taken_bytes.fetch_add(taken, Ordering::SeqCst);
            outcome
        }
        .boxed()
    }

    fn ignored(&self) -> u64 {
        self.frames.ignored()
    }
}
