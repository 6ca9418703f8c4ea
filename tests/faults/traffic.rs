//! Lets the relay send a history in parts, across the lives of the worker.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::history::{History, Manner};
use crate::store::ModelStore;
use crate::upstream::Upstream;

/// The largest number of entries that are sent at once.
const MOST_AT_ONCE: usize = 12;
const PAUSE_MILLIS: std::ops::Range<u64> = 0..120;
/// Longer than any backoff, so that a start at the live end connects in between.
const LIVE_PAUSE: Duration = Duration::from_secs(65);

pub(crate) struct Traffic {
    history: Arc<History>,
    upstream: Arc<Upstream>,
    rng: Rng,
    era: usize,
    /// How many entries of the sequence were sent.
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

    /// Sends entries until all are sent and the cursor has passed them. If it is dropped, the next
    /// call continues from there.
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

    /// Whether no client has connected yet to a sequence that the relay has begun without a notice.
    /// A client that connects after its end would wait for ever.
    fn is_unheard(&self, store: &ModelStore) -> bool {
        self.history.manner == Manner::RenumberedSilently
            && self.era > 0
            && store.position() > self.history.last_seq(self.era)
    }
}
