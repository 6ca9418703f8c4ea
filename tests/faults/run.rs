//! Runs one seed: a tree follows a history, in one life of the process or in several.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::config::{Config, Layers, Verify};
use huddle_firehose::pipeline::Context;
use huddle_firehose::testing::fault::{Faults, Point};
use huddle_firehose::worker;
use huddle_firehose::worker::Role;
use huddle_firehose::worker::{Assembly, Parts, RunningWorker, WorkerError};
use tokio::time::{Instant, sleep_until};

use crate::audit::Audit;
use crate::history::History;
use crate::schedule::{End, Schedule, Scope};
use crate::store::ModelStore;
use crate::traffic::Traffic;
use crate::upstream::Upstream;

/// In the paused time of the tree.
const SLOT_TIMEOUT: Duration = Duration::from_secs(1200);
/// Longer than any wait except the one for a stuck actor.
const WAITING: Duration = Duration::from_secs(40);
/// More lives than faults can end.
const MOST_LIVES: usize = 12;

static SCOPE: LazyLock<Scope> = LazyLock::new(|| Scope {
    points: Point::IN_ACTORS.to_vec(),
    roles: vec![
        Role::Connection,
        Role::Cursor,
        Role::Decoder(0),
        Role::Filter,
        Role::Housekeeping,
        Role::Indexer,
    ],
});

/// What one seed needs, across the lives of the process.
pub(crate) struct Run {
    seed: u64,
    pub(crate) config: Config,
    pub(crate) history: Arc<History>,
    schedule: Arc<Schedule>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) store: Arc<ModelStore>,
    traffic: Traffic,
}

/// How a life ended.
enum Ended {
    /// The relay has sent everything, and it is applied.
    Done,
    Early,
}

/// Why a tree has to stop.
enum Stop {
    AllApplied,
    /// By a drain.
    Asked,
    Died(WorkerError),
    /// At once, without a drain.
    Killed,
}

/// Panics if an event is lost, the cursor leads, or the run does not end.
pub(crate) fn run(seed: u64, history: &Arc<History>) {
    let mut run = Run::new(seed, history.clone(), Schedule::seeded(seed, &SCOPE));
    let mut ends = run.schedule.plan().ends.clone().into_iter();
    let is_done = (0..MOST_LIVES).any(|_| matches!(run.live(ends.next()), Ended::Done));
    assert!(is_done, "{}: too many lives", run.name());
    let differences = run.store.differences();
    assert!(differences.is_empty(), "{}: {differences:#?}", run.name());
}

/// The settings of a worker without configuration.
static DEFAULTS: LazyLock<Config> = LazyLock::new(|| Layers::new().resolve().unwrap().config);

fn config(seed: u64) -> Config {
    let mut config = DEFAULTS.clone();
    let mut rng = Rng::with_seed(seed);
    config.verify = Verify::None;
    config.decoders = rng.usize(1..4);
    config.batch_frames = rng.usize(1..40);
    config.index_batch = rng.usize(1..60);
    if rng.u8(..) < 64 {
        // Less than the frames of a run, so that the socket has to wait at times.
        config.memory_budget = 20_000;
    }
    config.drain_timeout = match rng.u8(..) {
        0..64 => Duration::from_secs(3),
        // Longer than the detection of a stuck actor takes.
        _ => Duration::from_secs(300),
    };
    config
}

impl Run {
    fn new(seed: u64, history: Arc<History>, schedule: Schedule) -> Self {
        let mut config = config(seed);
        let rejects = seed.is_multiple_of(2);
        config.validation = if rejects { "reject" } else { "flag" }.parse().unwrap();
        let schedule = Arc::new(schedule);
        let upstream = Arc::new(Upstream::new(history.options, seed));
        let audit = Audit::new(history.clone(), upstream.clone(), schedule.clone(), rejects);
        Self {
            seed,
            config,
            traffic: Traffic::new(history.clone(), upstream.clone(), seed),
            store: Arc::new(ModelStore::new(schedule.clone(), audit)),
            history,
            schedule,
            upstream,
        }
    }

    /// A run of a history without hostile events, and without faults except those of the test.
    pub(crate) fn without_faults() -> Self {
        Self::new(0, Arc::new(History::peaceful()), Schedule::default())
    }

    /// Builds the parts of a tree of this run.
    pub(crate) fn assembly(&self) -> Assembly {
        Assembly::new(Parts {
            rules: worker::rules(&(&self.config).into(), self.upstream.as_ref()).unwrap(),
            options: (&self.config).into(),
            source: self.upstream.clone(),
            store: self.store.clone(),
            feed: None,
            views: Arc::default(),
            changes_token: None,
            repositories: None,
            listener: None,
            control: None,
            faults: Faults::planned(self.schedule.clone()),
        })
    }

    /// Runs one life of the process, until `end` at the latest.
    fn live(&mut self, end: Option<End>) -> Ended {
        // Backoffs use the random generator of the thread.
        fastrand::seed(self.seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(self.follow(end))
    }

    async fn follow(&mut self, end: Option<End>) -> Ended {
        self.schedule.note_draining(false);
        let assembly = self.assembly();
        let context = assembly.context.clone();
        let mut tree = match RunningWorker::start(assembly).await {
            Ok(tree) => tree,
            Err(error) => return self.died(&error),
        };
        let is_done = match self.watch(&mut tree, &context, end).await {
            Stop::AllApplied => true,
            Stop::Asked => false,
            Stop::Died(error) => return self.died(&error),
            Stop::Killed => return Ended::Early,
        };
        self.schedule.note_draining(true);
        match tree.drain().await {
            Ok(()) => self.look_at_drained(&context),
            Err(WorkerError::DrainDeadline(_)) => return Ended::Early,
            Err(error) => return self.died(&error),
        }
        match is_done {
            true => Ended::Done,
            false => Ended::Early,
        }
    }

    /// Lets the relay send its events until the tree has to stop.
    async fn watch(
        &mut self,
        tree: &mut RunningWorker,
        context: &Context,
        end: Option<End>,
    ) -> Stop {
        let begun = Instant::now();
        let mut blow = self.schedule.plan().blow.clone();
        loop {
            let blow_at = begun + blow.as_ref().map_or(SLOT_TIMEOUT, |blow| blow.at);
            let end_at = begun + end.map_or(SLOT_TIMEOUT, |end| end.after);
            tokio::select! {
                error = tree.failed() => return Stop::Died(error),
                () = self.traffic.flow(&self.store) => return Stop::AllApplied,
                () = sleep_until(end_at), if end.is_some() => {
                    return match end {
                        Some(End { drains: false, .. }) => Stop::Killed,
                        _ => Stop::Asked,
                    };
                }
                () = sleep_until(blow_at), if blow.is_some() => {
                    let roles = blow.take().into_iter().flat_map(|blow| blow.roles);
                    roles.for_each(|role| tree.kill(role));
                }
                () = forgotten(context) => {
                    let is_explained = self.schedule.has_stalled_an_actor();
                    assert!(is_explained, "{}: work was forgotten", self.name());
                }
                () = sleep_until(begun + SLOT_TIMEOUT) => {
                    panic!("{}: stood still at {}", self.name(), self.store.position());
                }
            }
        }
    }

    /// Asserts that everything that was read is applied, and that the cursor is there.
    fn look_at_drained(&self, context: &Context) {
        assert!(
            context.ledger.is_idle(),
            "{}: something is left",
            self.name()
        );
        let acked = context.ledger.acked_through().seq;
        let position = self.store.position();
        // A move of the cursor to the beginning may have been committed without an answer.
        let is_there = position == acked || position == 0;
        assert!(is_there, "{}: {position}, not {acked}", self.name());
    }

    /// The process ends because its tree has ended.
    fn died(&self, error: &WorkerError) -> Ended {
        let is_explained = self.schedule.has_struck_the_supervisor();
        assert!(is_explained, "{}: {error}", self.name());
        Ended::Early
    }

    /// The command to run the seed again, and its schedule.
    fn name(&self) -> String {
        format!(
            "HUDDLE_FAULT_SEEDS={} cargo test --test faults ({:?})",
            self.seed,
            self.schedule.plan()
        )
    }
}

/// Waits until work has waited too long while no actor was busy with it.
async fn forgotten(context: &Context) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let since = context.ledger.waiting_since();
        if since.is_some_and(|since| since.elapsed() > WAITING) {
            return;
        }
    }
}
