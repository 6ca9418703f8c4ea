//! Runs a worker for a test: it reads from a relay and writes to a database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::config::{Config, Layers, Verify};
use huddle_firehose::lexicon::Schemas;
use huddle_firehose::store::Store;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::telemetry::health::{Readiness, Thresholds, readiness};
use huddle_firehose::telemetry::status::{ActorState, SourceStatus, Status};
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::testing::mock_relay::MockRelay;
use huddle_firehose::worker;
use huddle_firehose::worker::Role;
use huddle_firehose::worker::RunningWorker;
use huddle_firehose::worker::{Assembly, ControlParts, Parts};
use jiff::Timestamp;
use tokio::sync::OnceCell;

use crate::mock_relay::relay;
use crate::observed_source::{self, Observed};
use crate::recorded_frames::{frames, last_seq};
use crate::tables::{Database, Tables, assert_same_tables};
use crate::waiting::{eventually, soon};

/// A configuration with small batches, so that the recording makes many, and with short delays.
pub fn config() -> Config {
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

/// The tables of a worker that has read the recording without any failure.
pub async fn undisturbed() -> &'static Tables {
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
pub struct Worker {
    pub tree: RunningWorker,
    thresholds: Thresholds,
    pub source: Arc<Observed>,
}

impl Worker {
    pub async fn start(relay: &MockRelay, database: &Database) -> Self {
        Self::start_with(config(), relay, database.store().await).await
    }

    pub async fn start_with(config: Config, relay: &MockRelay, store: impl Store) -> Self {
        Self::start_at(config, Observed::at(relay), store, Faults::default()).await
    }

    pub async fn start_at(
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
            feed: None,
            views: Arc::default(),
            changes_token: None,
            store: Arc::new(store),
            repositories: None,
            listener: None,
            control: None,
            faults,
        });
        let tree = RunningWorker::start(assembly).await.unwrap();
        Self {
            tree,
            source,
            thresholds,
        }
    }

    /// Like [`Self::start_at`], with a CommandActor on the tables of `store`.
    pub async fn start_with_commands(
        config: Config,
        source: Arc<Observed>,
        store: Arc<SqliteStore>,
        faults: Faults,
    ) -> Self {
        let options = worker::Options::from(&config);
        let thresholds = options.thresholds;
        let schemas = Schemas::embedded().unwrap();
        let scope = worker::scope(&options, &schemas, store.clone()).await;
        let assembly = Assembly::new(Parts {
            rules: worker::rules(&options, source.as_ref()).unwrap(),
            options,
            source: source.clone(),
            feed: None,
            views: Arc::default(),
            changes_token: None,
            store,
            repositories: None,
            listener: None,
            control: Some(ControlParts {
                scope: scope.unwrap(),
                socket: None,
                admin: None,
            }),
            faults,
        });
        let tree = RunningWorker::start(assembly).await.unwrap();
        Self {
            tree,
            source,
            thresholds,
        }
    }

    pub fn status(&self) -> Status {
        self.tree.context().status.snapshot()
    }

    /// The answer that `/readyz` would give.
    pub fn readiness(&self) -> Readiness {
        readiness(&self.status(), Timestamp::now(), &self.thresholds)
    }

    /// The reason for which the database makes the worker not ready, if any.
    pub fn database_fault(&self) -> Option<String> {
        let reasons = self.readiness().reasons.into_iter();
        let mut faults = reasons.filter(|reason| reason.component == "database");
        faults.next().map(|reason| reason.message)
    }

    /// Waits until the worker says that database writes fail, for a reason that contains `words`.
    pub async fn is_blocked_because(&self, words: &str) {
        eventually(words, || {
            self.database_fault()
                .is_some_and(|fault| fault.contains(words))
        })
        .await;
    }

    /// Waits for the end of the recording, asserts that nothing is missing and no actor has
    /// restarted, and stops.
    pub async fn completes_recording(self, end: u64, database: &Database) {
        self.reaches(end).await;
        assert_eq!(self.database_fault(), None);
        self.assert_restarted(&[]);
        self.drain().await;
        assert_same_tables(&database.tables().await, undisturbed().await);
    }

    pub fn source_status(&self) -> SourceStatus {
        let sources = self.status().sources;
        sources
            .get(observed_source::id().as_str())
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until `events` events have been handled, and some are applied.
    pub async fn is_amid(&self, events: u64) {
        eventually(&format!("{events} events"), || {
            let source = self.source_status();
            source.events >= events && source.applied.seq > 0
        })
        .await;
    }

    /// Waits until everything up to `seq` is durable.
    pub async fn reaches(&self, seq: u64) {
        eventually(&format!("the cursor at {seq}"), || {
            let source = self.source_status();
            source.received.seq == seq && source.applied.seq == seq
        })
        .await;
    }

    /// Kills `role` and waits until it is back.
    pub async fn kill(&self, role: Role) {
        let before = self.restarts(role);
        self.tree.kill(role);
        eventually(&format!("the restart of {role}"), || {
            self.restarts(role) > before && self.state(role) == Some(ActorState::Running)
        })
        .await;
    }

    pub fn restarts(&self, role: Role) -> u64 {
        let actors = self.status().actors;
        actors
            .get(&role.to_string())
            .map_or(0, |actor| actor.restarts)
    }

    /// Asserts that each of `roles` has restarted once, and no other actor has.
    pub fn assert_restarted(&self, roles: &[Role]) {
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

    pub async fn drain(self) {
        soon(self.tree.drain()).await.unwrap();
    }
}
