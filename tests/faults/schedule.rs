//! Which faults strike when: a function of the seed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use huddle_firehose::fault::{Fault, FaultPlan, Point};

/// How often a point is passed before a fault may strike there, at most.
const LATEST: u32 = 40;

#[derive(Debug, Default)]
pub(crate) struct Schedule {
    strikes: Vec<Strike>,
    store_strikes: Vec<(u32, StoreFault)>,
    passed: Mutex<Passed>,
}

#[derive(Debug, Default)]
struct Passed {
    points: HashMap<Point, u32>,
    transactions: u32,
}

#[derive(Debug)]
struct Strike {
    point: Point,
    /// Strikes when the point is passed for the so many-th time, from 0.
    pass: u32,
    fault: Fault,
}

/// What goes wrong in a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreFault {
    /// It is committed, and the answer says it is not.
    CommittedUnseen,
    /// It is committed, and there is no answer.
    CommittedWithoutAnswer,
    /// Nothing is done, and there is no answer.
    Hangs,
    /// Nothing is done.
    Refused,
}

impl Schedule {
    pub(crate) fn seeded(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut strikes, mut store_strikes) = (Vec::new(), Vec::new());
        for _ in 0..rng.u32(1..=5) {
            if rng.u8(..) < 64 {
                let faults = [
                    StoreFault::CommittedUnseen,
                    StoreFault::CommittedWithoutAnswer,
                    StoreFault::Hangs,
                    StoreFault::Refused,
                ];
                store_strikes.push((rng.u32(0..LATEST), faults[rng.usize(..faults.len())]));
                continue;
            }
            let point = Point::IN_ACTORS[rng.usize(..Point::IN_ACTORS.len())];
            let faults = possible(point);
            strikes.push(Strike {
                point,
                pass: if matches!(point, Point::Spawn | Point::Spawned) {
                    rng.u32(0..12)
                } else if is_rare(point) {
                    rng.u32(0..3)
                } else {
                    rng.u32(0..LATEST)
                },
                fault: faults[rng.usize(..faults.len())],
            });
        }
        Self {
            strikes,
            store_strikes,
            passed: Mutex::default(),
        }
    }

    /// What goes wrong in the transaction that begins now.
    pub(crate) fn strike_store(&self) -> Option<StoreFault> {
        let mut passed = self.passed.lock().unwrap();
        let transaction = passed.transactions;
        passed.transactions += 1;
        self.store_strikes
            .iter()
            .find(|(pass, _)| *pass == transaction)
            .map(|(_, fault)| *fault)
    }
}

impl FaultPlan for Schedule {
    fn strike(&self, point: Point) -> Option<Fault> {
        let mut passed = self.passed.lock().unwrap();
        let count = passed.points.entry(point).or_default();
        let pass = *count;
        *count += 1;
        self.strikes
            .iter()
            .find(|strike| strike.point == point && strike.pass == pass)
            .map(|strike| strike.fault)
    }
}

/// Passed only a few times in a run.
fn is_rare(point: Point) -> bool {
    matches!(
        point,
        Point::ConnectionStart
            | Point::CursorStart
            | Point::DecoderStart
            | Point::FilterStart
            | Point::IndexerStart
    )
}

/// A start runs within the supervisor's own handler, so it can't be killed or stall by itself. The
/// supervisor's end is the tree's, and has tests of its own. A connection may wait for hours and be
/// well, so nobody would call it stuck.
fn possible(point: Point) -> &'static [Fault] {
    const DELAY: Fault = Fault::Delay(Duration::from_millis(700));
    match point {
        Point::Spawn => &[DELAY, Fault::Error],
        Point::Spawned => &[DELAY],
        Point::ConnectionStart
        | Point::CursorStart
        | Point::DecoderStart
        | Point::FilterStart
        | Point::IndexerStart => &[Fault::Error, Fault::Panic],
        Point::ConnectionStep | Point::ConnectionRead | Point::HousekeepingMessage => {
            &[DELAY, Fault::Error, Fault::Kill, Fault::Panic]
        }
        _ => &[DELAY, Fault::Error, Fault::Kill, Fault::Panic, Fault::Stall],
    }
}
