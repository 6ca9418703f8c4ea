//! Decides from the seed which faults strike when.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::testing::fault::{Fault, FaultPlan, Point};
use huddle_firehose::worker::Role;

/// The largest number of passes of a point before a fault strikes there.
const LATEST: u32 = 40;
/// The longest life of a process that is ended early.
const SHORT_LIFE_MILLIS: u64 = 4_000;

/// The points where faults may strike, and the actors that may be killed from outside.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) points: Vec<Point>,
    pub(crate) roles: Vec<Role>,
}

#[derive(Default)]
pub(crate) struct Schedule {
    plan: Plan,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    strikes: Vec<Strike>,
    pub(crate) blow: Option<Blow>,
    pub(crate) ends: Vec<End>,
}

/// One fault, which strikes once.
#[derive(Debug)]
struct Strike {
    target: Target,
    trigger: Trigger,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Actor(Point, Fault),
    Store(StoreFault),
}

/// At which pass of the target the fault strikes, from 0.
#[derive(Clone, Copy, Debug)]
enum Trigger {
    Ever(u32),
    /// Counted since another fault has struck: while another part is down, or has just restarted.
    SinceAnother(u32),
    SinceDraining(u32),
}

/// Actors that are killed from outside at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Blow {
    pub(crate) at: Duration,
    pub(crate) roles: Vec<Role>,
}

/// How a life of the process ends before all events are applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) after: Duration,
    /// By a drain, or at once.
    pub(crate) drains: bool,
}

/// A failure of a query or a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreFault {
    /// It is committed, but the answer is an error.
    CommittedUnseen,
    /// It is committed, but there is no answer.
    CommittedWithoutAnswer,
    /// It is not committed, and there is no answer.
    Hangs,
    /// It is not committed, and the answer is an error.
    Refused,
}

#[derive(Debug, Default)]
struct State {
    passes: HashMap<Option<Point>, Passes>,
    is_draining: bool,
    struck: Vec<usize>,
}

#[derive(Debug, Default)]
struct Passes {
    ever: u32,
    since_another: u32,
    since_draining: u32,
}

impl Schedule {
    pub(crate) fn seeded(seed: u64, scope: &Scope) -> Self {
        let mut rng = Rng::with_seed(seed);
        let strikes = (0..rng.u32(1..=5)).map(|_| Strike::random(&mut rng, &scope.points));
        let mut plan = Plan {
            strikes: strikes.collect(),
            blow: (rng.u8(..) < 64).then(|| Blow::random(&mut rng, &scope.roles)),
            ends: match rng.u32(..10) {
                0..6 => Vec::new(),
                6..8 => vec![End::random(&mut rng)],
                _ => (0..3).map(|_| End::random(&mut rng)).collect(),
            },
        };
        if plan.strikes.iter().any(Strike::waits_for_a_drain) {
            // When everything is applied, a drain has little to do, so few faults can strike.
            let mut amid_the_traffic = End::random(&mut rng);
            amid_the_traffic.drains = true;
            plan.ends.insert(0, amid_the_traffic);
        }
        Self {
            plan,
            state: Mutex::default(),
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn note_draining(&self, is_draining: bool) {
        self.state().is_draining = is_draining;
    }

    /// The failure of the query or transaction that begins now.
    pub(crate) fn strike_store(&self) -> Option<StoreFault> {
        match self.pass(None)? {
            Target::Store(fault) => Some(fault),
            Target::Actor(..) => None,
        }
    }

    /// How many faults have struck that may have killed an actor with a batch in hand.
    pub(crate) fn deaths(&self) -> usize {
        let state = self.state();
        let struck = state
            .struck
            .iter()
            .map(|index| self.plan.strikes[*index].target);
        let strikes = struck.filter(|target| {
            !matches!(target, Target::Store(_) | Target::Actor(_, Fault::Delay(_)))
        });
        strikes.count() + self.plan.blow.iter().flat_map(|blow| &blow.roles).count()
    }

    /// Whether a fault made an actor wait without end.
    pub(crate) fn has_stalled_an_actor(&self) -> bool {
        let state = self.state();
        state.struck.iter().any(|index| {
            matches!(
                self.plan.strikes[*index].target,
                Target::Actor(_, Fault::Stall)
                    | Target::Store(StoreFault::CommittedWithoutAnswer | StoreFault::Hangs)
            )
        })
    }

    /// Whether a fault has struck the supervisor itself, which ends the process.
    pub(crate) fn has_struck_the_supervisor(&self) -> bool {
        let state = self.state();
        state.struck.iter().any(|index| {
            matches!(
                self.plan.strikes[*index].target,
                Target::Actor(
                    Point::SupervisorMessage | Point::SupervisorEvent,
                    Fault::Error | Fault::Kill | Fault::Panic
                )
            )
        })
    }

    /// `None` means the store.
    fn pass(&self, point: Option<Point>) -> Option<Target> {
        let mut state = self.state();
        let is_draining = state.is_draining;
        let passes = state.passes.entry(point).or_default();
        let strikes = |strike: &Strike| {
            let (wanted, count) = match strike.trigger {
                Trigger::Ever(count) => (Some(passes.ever), count),
                Trigger::SinceAnother(count) => (Some(passes.since_another), count),
                Trigger::SinceDraining(count) => {
                    (is_draining.then_some(passes.since_draining), count)
                }
            };
            strike.target.point() == point && wanted == Some(count)
        };
        let candidates: Vec<usize> = (0..self.plan.strikes.len())
            .filter(|index| strikes(&self.plan.strikes[*index]))
            .collect();
        passes.ever += 1;
        passes.since_draining += u32::from(is_draining);
        passes.since_another += 1;
        let has_struck_before = !state.struck.is_empty();
        let index = candidates.into_iter().find(|index| {
            let is_due = has_struck_before
                || !matches!(self.plan.strikes[*index].trigger, Trigger::SinceAnother(_));
            is_due && !state.struck.contains(index)
        })?;
        state.struck.push(index);
        for passes in state.passes.values_mut() {
            passes.since_another = 0;
        }
        Some(self.plan.strikes[index].target)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl FaultPlan for Schedule {
    fn strike(&self, point: Point) -> Option<Fault> {
        match self.pass(Some(point))? {
            Target::Actor(_, fault) => Some(fault),
            Target::Store(_) => None,
        }
    }
}

impl Strike {
    fn random(rng: &mut Rng, points: &[Point]) -> Self {
        let target = Target::random(rng, points);
        let trigger = match rng.u32(..8) {
            0 => Trigger::SinceDraining(rng.u32(..2)),
            1..3 => Trigger::SinceAnother(rng.u32(..3)),
            _ => Trigger::Ever(rng.u32(..target.passes())),
        };
        Self { target, trigger }
    }

    fn waits_for_a_drain(&self) -> bool {
        matches!(self.trigger, Trigger::SinceDraining(_))
    }
}

impl Target {
    fn random(rng: &mut Rng, points: &[Point]) -> Self {
        if rng.u8(..) < 64 {
            let faults = [
                StoreFault::CommittedUnseen,
                StoreFault::CommittedWithoutAnswer,
                StoreFault::Hangs,
                StoreFault::Refused,
            ];
            return Self::Store(faults[rng.usize(..faults.len())]);
        }
        let point = points[rng.usize(..points.len())];
        let faults = possible(point);
        Self::Actor(point, faults[rng.usize(..faults.len())])
    }

    fn point(self) -> Option<Point> {
        match self {
            Self::Actor(point, _) => Some(point),
            Self::Store(_) => None,
        }
    }

    /// The latest pass at which a fault may strike, for points that a run rarely passes.
    fn passes(self) -> u32 {
        match self.point() {
            Some(Point::Spawn | Point::Spawned) => 12,
            Some(
                Point::BackfillStart
                | Point::ConnectionStart
                | Point::CursorStart
                | Point::DecoderStart
                | Point::FilterStart
                | Point::IndexerStart
                | Point::RepositoriesStart
                | Point::SupervisorEvent,
            ) => 4,
            _ => LATEST,
        }
    }
}

/// The faults that are possible at `point`. A start runs in a handler of the supervisor, so it
/// cannot be killed or stall by itself. The supervisor is not watched, so it must not stall either.
/// A connection may wait for hours without a failure, so it never counts as stuck.
fn possible(point: Point) -> &'static [Fault] {
    const DELAY: Fault = Fault::Delay(Duration::from_millis(700));
    match point {
        Point::Spawn | Point::Spawned => &[DELAY, Fault::Error],
        Point::BackfillStart
        | Point::ConnectionStart
        | Point::CursorStart
        | Point::DecoderStart
        | Point::FilterStart
        | Point::IndexerStart
        | Point::RepositoriesStart => &[DELAY, Fault::Error, Fault::Panic],
        Point::ConnectionStep
        | Point::ConnectionRead
        | Point::HousekeepingMessage
        | Point::SupervisorEvent
        | Point::SupervisorMessage => &[DELAY, Fault::Error, Fault::Kill, Fault::Panic],
        _ => &[DELAY, Fault::Error, Fault::Kill, Fault::Panic, Fault::Stall],
    }
}

impl Blow {
    fn random(rng: &mut Rng, roles: &[Role]) -> Self {
        let mut roles = roles.to_vec();
        rng.shuffle(&mut roles);
        roles.truncate(rng.usize(1..=3));
        Self {
            at: Duration::from_millis(rng.u64(..SHORT_LIFE_MILLIS)),
            roles,
        }
    }
}

impl End {
    fn random(rng: &mut Rng) -> Self {
        Self {
            after: Duration::from_millis(rng.u64(..SHORT_LIFE_MILLIS)),
            drains: rng.bool(),
        }
    }
}
