//! Has the relay say a history, bit by bit, across the lives of those who follow it.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::history::{History, Manner};
use crate::store::ModelStore;
use crate::upstream::Upstream;

/// How much is said at once, at most.
const MOST_AT_ONCE: usize = 12;
const PAUSE_MILLIS: std::ops::Range<u64> = 0..120;
/// Longer than any backoff, so that whoever asks for the live end comes in between.
const LIVE_PAUSE: Duration = Duration::from_secs(65);

pub(crate) struct Traffic {
    history: Arc<History>,
    upstream: Arc<Upstream>,
    rng: Rng,
    era: usize,
    /// How many entries of the era were said.
    said: usize,
}

impl Traffic {
    pub(crate) fn new(history: Arc<History>, upstream: Arc<Upstream>, seed: u64) -> Self {
        Self {
            history,
            upstream,
            rng: Rng::with_seed(seed),
            era: 0,
            said: 0,
        }
    }

    /// Goes on, until all was said and the cursor is behind it. Where it is dropped, the next call
    /// goes on from there.
    pub(crate) async fn flow(&mut self, store: &ModelStore) {
        loop {
            self.flow_era(store).await;
            store.stands_at(self.history.last_seq(self.era)).await;
            if self.era + 1 == self.history.eras.len() {
                return;
            }
            self.upstream.begin_anew();
            self.era += 1;
            self.said = 0;
        }
    }

    async fn flow_era(&mut self, store: &ModelStore) {
        loop {
            let rest = &self.history.eras[self.era][self.said..];
            if rest.is_empty() {
                return;
            }
            let (count, pause) = if self.is_unheard(store) {
                (1, LIVE_PAUSE)
            } else {
                let pause = Duration::from_millis(self.rng.u64(PAUSE_MILLIS));
                (self.rng.usize(1..=MOST_AT_ONCE), pause)
            };
            let next = &rest[..count.min(rest.len())];
            self.upstream.say(next);
            self.said += next.len();
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether nobody has come yet to a sequence that a relay has begun without a message. Who comes too late
    /// to hear anything of it would wait for ever.
    fn is_unheard(&self, store: &ModelStore) -> bool {
        self.history.manner == Manner::RenumberedSilently
            && self.era > 0
            && store.position() > self.history.last_seq(self.era)
    }
}
