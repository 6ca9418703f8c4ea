//! A worker for each test: the recording before it, a database behind it.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::config::{Config, Layers, Verify};
use huddle_firehose::store::Store;
use huddle_firehose::telemetry::health::{Readiness, Thresholds, readiness};
use huddle_firehose::telemetry::status::{ActorState, SourceStatus, Status};
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use huddle_firehose::testing::recording;
use huddle_firehose::worker;
use huddle_firehose::worker::Role;
use huddle_firehose::worker::{Assembly, Parts, RunningWorker};
use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use crate::observed::{self, Observed};
use crate::tables::{Database, Tables, assert_same_tables};

/// Long enough for any machine; no test waits for it unless it fails.
pub(crate) const SLOT_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never came to pass: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

/// What `future` comes to; it must come soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SLOT_TIMEOUT, future).await.unwrap()
}

/// The recorded frames, each with a seq, rising.
pub(crate) fn frames() -> Vec<Bytes> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/testbed.bin");
    recording::load(&file).unwrap()
}

pub(crate) fn last_seq(frames: &[Bytes]) -> u64 {
    frames.iter().rev().find_map(|frame| seq_of(frame)).unwrap()
}

/// Small batches, so that the recording makes many, and short waits.
pub(crate) fn config() -> Config {
    let ms = Duration::from_millis;
    Config {
        decoders: 2,
        batch_frames: 8,
        batch_wait: ms(1),
        index_batch: 10,
        index_wait: ms(2),
        checkpoint_interval: ms(20),
        reconnect_min: ms(5),
        reconnect_max: ms(20),
        restart_min: ms(5),
        restart_max: ms(20),
        verify: Verify::None,
        ..Layers::new().resolve().unwrap().config
    }
}

pub(crate) async fn relay(frames: Vec<Bytes>) -> MockRelay {
    MockRelay::start(frames, Options::default()).await.unwrap()
}

pub(crate) async fn relay_with(frames: Vec<Bytes>, options: Options) -> MockRelay {
    MockRelay::start(frames, options).await.unwrap()
}

/// Serves slowly enough for a worker to be met in the middle; the recording then takes about 0.2 s.
pub(crate) fn unhurried() -> Options {
    Options {
        rate: NonZeroU32::new(1500),
        ..Options::default()
    }
}

/// What the recording makes of an empty database where nothing goes wrong.
pub(crate) async fn undisturbed() -> &'static Tables {
    static TABLES: OnceCell<Tables> = OnceCell::const_new();
    TABLES
        .get_or_init(|| async {
            let (frames, database) = (frames(), Database::new());
            let end = last_seq(&frames);
            let relay = relay(frames).await;
            let worker = Worker::start(&relay, &database).await;
            worker.reaches(end).await;
            worker.drain().await;
            database.tables().await
        })
        .await
}

/// A worker in this process.
pub(crate) struct Worker {
    pub(crate) tree: RunningWorker,
    thresholds: Thresholds,
    pub(crate) source: Arc<Observed>,
}

impl Worker {
    pub(crate) async fn start(relay: &MockRelay, database: &Database) -> Self {
        Self::start_with(config(), relay, database.store().await).await
    }

    pub(crate) async fn start_with(config: Config, relay: &MockRelay, store: impl Store) -> Self {
        Self::start_at(config, Observed::at(relay), store, Faults::default()).await
    }

    pub(crate) async fn start_at(
        config: Config,
        source: Arc<Observed>,
        store: impl Store,
        faults: Faults,
    ) -> Self {
        let options = worker::Options::from(&config);
        let thresholds = options.thresholds;
        let assembly = Assembly::new(Parts {
            rules: worker::rules(&options, source.as_ref()).unwrap(),
            options,
            source: source.clone(),
            store: Arc::new(store),
            repositories: None,
            listener: None,
            faults,
        });
        let tree = RunningWorker::start(assembly).await.unwrap();
        Self {
            tree,
            source,
            thresholds,
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.tree.context().status.snapshot()
    }

    /// What `/readyz` would answer.
    pub(crate) fn readiness(&self) -> Readiness {
        readiness(&self.status(), Timestamp::now(), &self.thresholds)
    }

    /// What it says of the database, if anything.
    pub(crate) fn database_fault(&self) -> Option<String> {
        let reasons = self.readiness().reasons.into_iter();
        let mut faults = reasons.filter(|reason| reason.component == "database");
        faults.next().map(|reason| reason.message)
    }

    /// Waits until the database is said to take nothing, for a reason with `words`.
    pub(crate) async fn is_blocked_because(&self, words: &str) {
        eventually(words, || {
            self.database_fault()
                .is_some_and(|fault| fault.contains(words))
        })
        .await;
    }

    /// Shows that nothing is missing in the end, with no restart, and stops.
    pub(crate) async fn brings_everything(self, end: u64, database: &Database) {
        self.reaches(end).await;
        assert_eq!(self.database_fault(), None);
        self.assert_restarted(&[]);
        self.drain().await;
        assert_same_tables(&database.tables().await, undisturbed().await);
    }

    pub(crate) fn source_status(&self) -> SourceStatus {
        let sources = self.status().sources;
        sources
            .get(observed::id().as_str())
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until `events` events have been looked at, and something is in the tables.
    pub(crate) async fn is_amid(&self, events: u64) {
        eventually(&format!("{events} events"), || {
            let source = self.source_status();
            source.events >= events && source.applied.seq > 0
        })
        .await;
    }

    /// Waits until everything up to `seq` is durable.
    pub(crate) async fn reaches(&self, seq: u64) {
        eventually(&format!("the cursor at {seq}"), || {
            let source = self.source_status();
            source.received.seq == seq && source.applied.seq == seq
        })
        .await;
    }

    /// Kills `role` and waits until it is back.
    pub(crate) async fn kill(&self, role: Role) {
        let before = self.restarts(role);
        self.tree.kill(role);
        eventually(&format!("the restart of {role}"), || {
            self.restarts(role) > before && self.state(role) == Some(ActorState::Running)
        })
        .await;
    }

    pub(crate) fn restarts(&self, role: Role) -> u64 {
        let actors = self.status().actors;
        actors
            .get(&role.to_string())
            .map_or(0, |actor| actor.restarts)
    }

    /// Each of `roles` has been restarted once, and nobody else.
    pub(crate) fn assert_restarted(&self, roles: &[Role]) {
        let roles: BTreeSet<_> = roles.iter().map(Role::to_string).collect();
        let actors = self.status().actors;
        assert!(roles.iter().all(|role| actors.contains_key(role)));
        for (name, actor) in actors {
            let expected = u64::from(roles.contains(&name));
            assert_eq!(actor.restarts, expected, "restarts of {name}");
        }
    }

    fn state(&self, role: Role) -> Option<ActorState> {
        let actors = self.status().actors;
        actors.get(&role.to_string()).map(|actor| actor.state)
    }

    pub(crate) async fn drain(self) {
        soon(self.tree.drain()).await.unwrap();
    }
}

/// A worker on a runtime of its own, which can end at any moment and takes everything with it, as
/// the end of a process would.
pub(crate) struct Process {
    pub(crate) worker: Worker,
    runtime: RuntimeGuard,
}

/// A runtime may not be dropped by another one's task, which a test that panics would do.
struct RuntimeGuard(Option<Runtime>);

impl Process {
    pub(crate) async fn start(relay: &MockRelay, database: &Database) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (source, store) = (Observed::at(relay), database.store().await);
        let worker = Worker::start_at(config(), source, store, Faults::default());
        let worker = runtime.spawn(worker);
        let worker = worker.await.unwrap();
        let runtime = RuntimeGuard(Some(runtime));
        Self { worker, runtime }
    }

    /// Stops it in good order; returns the last seq that it had received.
    pub(crate) async fn drain(self) -> u64 {
        let status = self.worker.tree.context().status.clone();
        self.worker.drain().await;
        let source = &status.snapshot().sources[observed::id().as_str()];
        source.received.seq
    }

    /// Ends it between any two lines; returns once nothing of it is left.
    pub(crate) async fn crash(mut self) {
        let runtime = self.runtime.0.take().unwrap();
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SLOT_TIMEOUT));
        ended.await.unwrap();
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
