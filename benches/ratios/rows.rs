//! What is measured.

use std::time::Duration;

use huddle_firehose::config::Config;

use crate::replay::Replay;
use crate::{bare, frames, service};

/// Events of an unmatched round.
const UNMATCHED: u64 = 1_500_000;

/// One round: the same work, bare and by the worker.
pub(crate) struct Round {
    pub(crate) events: u64,
    pub(crate) bare: Duration,
    pub(crate) worker: Duration,
}

type Measure = fn() -> Round;

/// Each against a client that throws everything away.
pub(crate) const ROWS: &[(&str, Measure)] = &[
    ("unmatched", || unmatched(|_| {})),
    ("unmatched, 1 decoder", || {
        unmatched(|config| config.decoders = 1)
    }),
    ("unmatched, 4 decoders", || {
        unmatched(|config| config.decoders = 4)
    }),
    ("unmatched, 10 patterns", || {
        unmatched(|config| add_patterns(config, 9))
    }),
    ("unmatched, 100 patterns", || {
        unmatched(|config| add_patterns(config, 99))
    }),
];

fn unmatched(change: impl FnOnce(&mut Config)) -> Round {
    let frames = frames::unmatched();
    let length = frames::load(&frames).len() as u64;
    let events = UNMATCHED / length * length;
    let replay = Replay::start(&frames, events);
    Round {
        events,
        bare: bare::read(&replay, events),
        worker: service::follow(&replay, |config| {
            config.collections = vec!["org.example.nothing".parse().unwrap()];
            change(config);
        }),
    }
}

fn add_patterns(config: &mut Config, count: usize) {
    let pattern = |number| format!("org.example.p{number}.*").parse().unwrap();
    config.collections.extend((0..count).map(pattern));
}
