//! The history of the network that a run follows.

use fastrand::Rng;
use simulated_network::feed::Options;
use simulated_network::frame::LogEntry;
use simulated_network::network::Network;
use simulated_network::oracle::{Moment, Oracle};
use simulated_network::shape::Shape;

/// Higher than every seq of a sequence that begins with 1.
const FIRST_SEQ: u64 = 10_000_000;

#[derive(Debug)]
pub(crate) struct History {
    pub(crate) manner: Manner,
    pub(crate) options: Options,
    /// The log of the relay, in each of its sequences.
    pub(crate) eras: Vec<Vec<LogEntry>>,
    pub(crate) oracle: Oracle,
}

/// How the relay behaves, which decides what may be missed and what has to be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It holds so few events that a short interruption misses some, and it sends a notice then.
    Forgetful,
    /// It begins a new sequence, and refuses cursors of the old one.
    Renumbered,
    /// It begins a new sequence, and accepts cursors of the old one without a notice.
    RenumberedSilently,
    /// It holds everything.
    Steady,
}

impl History {
    pub(crate) fn seeded(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let manner = [
            Manner::Steady,
            Manner::Forgetful,
            Manner::Renumbered,
            Manner::RenumberedSilently,
        ][(seed % 4) as usize];
        let mut network = Network::new(seed, shape(manner));
        let mut eras = Vec::new();
        for steps in manner.steps() {
            if !eras.is_empty() {
                network.restart_sequence();
            }
            network.steps(*steps);
            network.conclude();
            eras.push(network.log().to_vec());
        }
        Self {
            manner,
            options: Options {
                window: (manner == Manner::Forgetful).then(|| rng.usize(10..60)),
                inclusive: rng.bool(),
                omits_cursor_messages: manner == Manner::RenumberedSilently,
            },
            eras,
            oracle: network.oracle().clone(),
        }
    }

    /// One sequence of a correct relay.
    pub(crate) fn peaceful() -> Self {
        let mut network = Network::new(0, Shape::default());
        network.steps(100);
        network.conclude();
        Self {
            manner: Manner::Steady,
            options: Options::default(),
            eras: vec![network.log().to_vec()],
            oracle: network.oracle().clone(),
        }
    }

    /// The last seq of a sequence.
    pub(crate) fn last_seq(&self, era: usize) -> u64 {
        let seqs = self.eras[era].iter().filter_map(|entry| entry.seq);
        seqs.last().expect("an era ends with an event")
    }

    /// Where the relay sent a frame.
    pub(crate) fn moment_of(&self, frame: &[u8]) -> Option<Moment> {
        (0_u32..).zip(&self.eras).find_map(|(sequence, era)| {
            let entry = era.iter().find(|entry| entry.frame == frame)?;
            let seq = entry.seq?;
            Some(Moment { sequence, seq })
        })
    }
}

impl Manner {
    /// How many actions happen in each sequence.
    fn steps(self) -> &'static [usize] {
        match self {
            Self::Forgetful | Self::Steady => &[90],
            Self::Renumbered | Self::RenumberedSilently => &[60, 40],
        }
    }
}

/// The shape of a history. A repeat may bring an event that was missed after all, and the return
/// from a false seq may look like a new sequence. Manners for which that matters have neither.
fn shape(manner: Manner) -> Shape {
    let shape = Shape {
        accounts: 5,
        max_ops: 5,
        first_seq: FIRST_SEQ,
        ..Shape::adversarial()
    };
    match manner {
        Manner::Renumbered | Manner::Steady => shape,
        Manner::Forgetful | Manner::RenumberedSilently => Shape {
            lies: 0,
            repeats: 0,
            ..shape
        },
    }
}
