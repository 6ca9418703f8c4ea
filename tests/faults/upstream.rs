//! The network's relay as a source in the same process: it delivers the feed in pieces, and cuts
//! the connection at times.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use simulated_network::feed::{Feed, Follower, Next, Options};
use simulated_network::frame::{LogEntry, error};
use simulated_network::oracle::Moment;

use huddle_firehose::model::SourceId;
use huddle_firehose::source::error::{ConnectError, ReadError};
use huddle_firehose::source::frame_sink::FrameSink;
use huddle_firehose::source::{Frames, Resume, Source};

/// The largest number of messages in one read.
const MOST: usize = 40;

pub(crate) struct Upstream {
    id: SourceId,
    feed: Feed,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    sequence: u32,
    missed: BTreeSet<Moment>,
    /// The events that some connection has delivered.
    heard: BTreeSet<Moment>,
    /// The missed events of the time before there was a cursor that could show them.
    missed_at_first: BTreeSet<Moment>,
    has_cursor: bool,
    /// The event at the durable cursor, as far as it is known.
    reached: Option<Moment>,
}

struct UpstreamFrames {
    follower: Follower,
    upstream: Arc<Mutex<State>>,
    sequence: u32,
    /// The number of messages after which the connection is cut.
    lost_after: Option<usize>,
    ignored: u64,
    rng: Rng,
}

impl Upstream {
    pub(crate) fn new(options: Options, seed: u64) -> Self {
        Self {
            id: SourceId::new("ws://relay.test/"),
            feed: Feed::new(options),
            state: Arc::new(Mutex::new(State {
                rng: Rng::with_seed(seed),
                sequence: 0,
                missed: BTreeSet::new(),
                heard: BTreeSet::new(),
                missed_at_first: BTreeSet::new(),
                has_cursor: false,
                reached: None,
            })),
        }
    }

    pub(crate) fn say(&self, entries: &[LogEntry]) {
        self.feed.append(entries);
    }

    /// Drops the log, and begins a new sequence.
    pub(crate) fn begin_anew(&self) {
        self.state().sequence += 1;
        self.feed.forget();
    }

    /// The events that no connection has delivered, or will.
    pub(crate) fn missed(&self) -> BTreeSet<Moment> {
        self.state().missed.clone()
    }

    /// The events that some connection has delivered.
    pub(crate) fn heard(&self) -> BTreeSet<Moment> {
        self.state().heard.clone()
    }

    /// The part of what was missed that no worker could notice: a new worker begins with the oldest event that
    /// is left.
    pub(crate) fn missed_at_first(&self) -> BTreeSet<Moment> {
        self.state().missed_at_first.clone()
    }

    pub(crate) fn note_cursor(&self) {
        self.state().has_cursor = true;
    }

    /// The durable cursor is at this event.
    pub(crate) fn note_reached(&self, moment: Moment) {
        self.state().reached = Some(moment);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Source for Upstream {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>> {
        let mut rng = self.state().rng.fork();
        async move {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..50))).await;
            if rng.u8(..) < 16 {
                return Err(ConnectError::Http {
                    status: 500,
                    retry_after: None,
                });
            }
            let follower = self.feed.follow(resume.cursor());
            let mut state = self.state();
            let sequence = state.sequence;
            for &seq in follower.missed() {
                let moment = Moment { sequence, seq };
                // An event that is only requested again was not missed.
                let is_known = state.reached.is_some_and(|reached| moment <= reached);
                if is_known || resume == Resume::With(seq) {
                    continue;
                }
                state.missed.insert(moment);
                if !state.has_cursor {
                    state.missed_at_first.insert(moment);
                }
            }
            let frames = UpstreamFrames {
                follower,
                upstream: self.state.clone(),
                sequence,
                lost_after: (rng.u8(..) < 80).then(|| rng.usize(1..150)),
                ignored: 0,
                rng,
            };
            Ok(Box::new(frames) as Box<dyn Frames>)
        }
        .boxed()
    }
}

impl UpstreamFrames {
    /// A replay may begin before the resume point, with an event that was missed before.
    fn note_heard(&self, seq: Option<u64>) {
        let Some(seq) = seq else {
            return;
        };
        let sequence = self.sequence;
        let moment = Moment { sequence, seq };
        let mut state = self.upstream.lock().unwrap();
        state.heard.insert(moment);
        state.missed.remove(&moment);
        state.missed_at_first.remove(&moment);
    }
}

impl Frames for UpstreamFrames {
    fn read_batch<'a>(
        &'a mut self,
        _linger: Duration,
        into: &'a mut dyn FrameSink,
    ) -> BoxFuture<'a, Result<(), ReadError>> {
        async move {
            tokio::time::sleep(Duration::from_micros(self.rng.u64(0..3000))).await;
            let mut most = self.rng.usize(1..=MOST);
            while most > 0 && !into.is_full() {
                if self.lost_after == Some(0) {
                    if self.rng.u8(..) < 64 {
                        into.take(error("ConsumerTooSlow"));
                    }
                    return Err(ReadError::Reset);
                }
                match self.follower.step() {
                    Next::Close => return Err(ReadError::Ended),
                    Next::Cut => return Err(ReadError::Reset),
                    Next::Say(entry) if entry.is_text => self.ignored += 1,
                    Next::Say(entry) => {
                        self.note_heard(entry.seq);
                        into.take(entry.frame);
                        most -= 1;
                    }
                    Next::Wait if into.is_empty() => {
                        self.follower.changed().await;
                        continue;
                    }
                    Next::Wait => return Ok(()),
                }
                if let Some(left) = &mut self.lost_after {
                    *left -= 1;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn ignored(&self) -> u64 {
        self.ignored
    }
}
