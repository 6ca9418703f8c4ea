//! Lets the network act, lets its relay send the events in parts, and waits until no work is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use ipld_core::ipld::Ipld;
use serde_ipld_dagcbor::de::from_reader_once;
use simulated_network::feed::Options;
use simulated_network::frame::LogEntry;
use simulated_network::network::Network;
use simulated_network::oracle::Moment;
use simulated_network::shape::Shape;

use super::store::FaultyStore;
use crate::upstream::Upstream;

/// Higher than every seq of a sequence that begins with 1.
const FIRST_SEQ: u64 = 10_000_000;
/// The largest number of actions at once.
const MOST_AT_ONCE: usize = 12;
const PAUSE_MILLIS: std::ops::Range<u64> = 0..400;
/// How often the tables are checked for work that is left.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How the relay behaves. See [`crate::history::Manner`]. A relay that begins a new sequence
/// without a notice is left out, because it does not affect verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Forgetful,
    Renumbered,
    Steady,
}

impl Manner {
    fn of(seed: u64) -> Self {
        [Self::Steady, Self::Forgetful, Self::Renumbered][(seed % 3) as usize]
    }

    /// How many actions happen in each sequence.
    fn eras(self) -> &'static [usize] {
        match self {
            Self::Forgetful | Self::Steady => &[90],
            Self::Renumbered => &[60, 40],
        }
    }

    fn shape(self) -> Shape {
        let shape = Shape {
            accounts: 5,
            max_ops: 5,
            first_seq: FIRST_SEQ,
            migrations: 0,
            ..Shape::adversarial()
        };
        match self {
            Self::Renumbered | Self::Steady => shape,
            // A repeat may bring a missed event after all.
            Self::Forgetful => Shape {
                lies: 0,
                repeats: 0,
                ..shape
            },
        }
    }
}

/// What the relay has sent so far.
#[derive(Default)]
pub(crate) struct Said {
    /// The rev that each `#commit` names, also if it is false.
    pub(crate) revs: BTreeMap<Moment, String>,
}

pub(crate) struct Traffic {
    pub(crate) network: Arc<Mutex<Network>>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) said: Arc<Mutex<Said>>,
    manner: Manner,
    rng: Rng,
    era: usize,
    /// How many actions are left in this sequence.
    left: usize,
    /// The seq of the last event that was sent.
    last: u64,
}

impl Traffic {
    pub(crate) fn new(seed: u64) -> Self {
        let manner = Manner::of(seed);
        let mut rng = Rng::with_seed(seed);
        let options = Options {
            window: (manner == Manner::Forgetful).then(|| rng.usize(10..60)),
            inclusive: rng.bool(),
            omits_cursor_messages: false,
        };
        let network = Network::new(seed, manner.shape());
        let begun = network.log().to_vec();
        let mut traffic = Self {
            network: Arc::new(Mutex::new(network)),
            upstream: Arc::new(Upstream::new(options, seed)),
            said: Arc::default(),
            manner,
            rng,
            era: 0,
            left: manner.eras()[0],
            last: 0,
        };
        traffic.say(&begun);
        traffic
    }

    pub(crate) fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap()
    }

    /// Acts until everything has happened and no work is left. If it is dropped, the next call
    /// continues from there.
    pub(crate) async fn flow(&mut self, store: &FaultyStore) {
        loop {
            while self.left > 0 {
                let count = self.rng.usize(1..=MOST_AT_ONCE).min(self.left);
                self.left -= count;
                let mut happened = self.network().steps(count).to_vec();
                if self.left == 0 {
                    happened.extend_from_slice(self.network().conclude());
                }
                self.say(&happened);
                let pause = Duration::from_millis(self.rng.u64(PAUSE_MILLIS));
                tokio::time::sleep(pause).await;
            }
            store.stands_at(self.last).await;
            if self.era + 1 == self.manner.eras().len() {
                break;
            }
            self.era += 1;
            self.left = self.manner.eras()[self.era];
            self.network().restart_sequence();
            self.upstream.begin_anew();
        }
        while store.has_work().await {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn say(&mut self, entries: &[LogEntry]) {
        {
            let mut said = self.said.lock().unwrap();
            for entry in entries {
                let Some(seq) = entry.seq else { continue };
                self.last = seq;
                let sequence = self.era as u32;
                if let Some(rev) = rev_of(&entry.frame) {
                    said.revs.insert(Moment { sequence, seq }, rev);
                }
            }
        }
        self.upstream.say(entries);
    }
}

/// `None` if the frame is not a commit.
fn rev_of(mut frame: &[u8]) -> Option<String> {
    let _header: Ipld = from_reader_once(&mut frame).ok()?;
    let payload: Ipld = serde_ipld_dagcbor::from_slice(frame).ok()?;
    match payload.get("rev") {
        Ok(Some(Ipld::String(rev))) => Some(rev.clone()),
        _ => None,
    }
}
