//! Runs one seed: a tree follows a network and asks its servers, in one life of the process or in
//! several.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::config::{Config, Layers, Verify};
use huddle_firehose::identity::{Identities, Limits};
use huddle_firehose::repo::{self, Backfill};
use huddle_firehose::source::process::verification::Verification;
use huddle_firehose::testing::fault::{Faults, Point};
use huddle_firehose::worker;
use huddle_firehose::worker::Role;
use huddle_firehose::worker::{Assembly, Parts, RunningWorker, WorkerError};
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};

use super::audit::Audit;
use super::hosts::NetworkHosts;
use super::store::{FaultyStore, Passed};
use super::traffic::Traffic;
use crate::schedule::{End, Schedule, Scope};

/// In the paused time of the tree.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2400);
/// More lives than faults can end.
const MOST_LIVES: usize = 12;

/// Faults strike the actors of repositories as often as all other actors.
static SCOPE: LazyLock<Scope> = LazyLock::new(|| {
    let repositories = [
        Point::BackfillStart,
        Point::BackfillStep,
        Point::RepositoriesStart,
        Point::RepositoriesMessage,
    ];
    let often = std::iter::repeat_n(repositories, 5).flatten();
    Scope {
        points: Point::IN_ACTORS.into_iter().chain(often).collect(),
        roles: vec![
            Role::Backfill,
            Role::Connection,
            Role::Cursor,
            Role::Decoder(0),
            Role::Filter,
            Role::Housekeeping,
            Role::Indexer,
            Role::Repositories,
        ],
    }
});

struct Run {
    seed: u64,
    config: Config,
    schedule: Arc<Schedule>,
    traffic: Traffic,
    audit: Arc<Mutex<Audit>>,
    /// The sum of the paused time of its lives.
    passed: Arc<Passed>,
    folder: TempDir,
}

/// Why a tree has to stop.
enum Stop {
    AllSettled,
    /// By a drain.
    Asked,
    Died(WorkerError),
    /// At once, without a drain.
    Killed,
}

/// Panics if an event is lost, the cursor leads, or the run does not end.
pub(crate) fn run(seed: u64) {
    let mut run = Run::new(seed);
    let mut ends = run.schedule.plan().ends.clone().into_iter();
    let differences = (0..MOST_LIVES).find_map(|_| run.live(ends.next()));
    let differences = differences.unwrap_or_else(|| panic!("{}: too many lives", run.name()));
    assert!(differences.is_empty(), "{}: {differences:#?}", run.name());
}

fn config(seed: u64) -> Config {
    static DEFAULTS: LazyLock<Config> = LazyLock::new(|| Layers::new().resolve().unwrap().config);
    let mut config = DEFAULTS.clone();
    let mut rng = Rng::with_seed(seed);
    config.verify = Verify::Chain;
    config.backfill = true;
    config.validation = "flag".parse().unwrap();
    // A discovery needs full names of collections.
    let profile = "com.huddle.profile".parse().unwrap();
    config.collections.push(profile);
    config.decoders = rng.usize(1..4);
    config.batch_frames = rng.usize(1..40);
    config.index_batch = rng.usize(1..60);
    config
}

impl Run {
    fn new(seed: u64) -> Self {
        let traffic = Traffic::new(seed);
        let audit = Audit::new(
            traffic.network.clone(),
            traffic.upstream.clone(),
            traffic.said.clone(),
        );
        Self {
            seed,
            config: config(seed),
            schedule: Arc::new(Schedule::seeded(seed, &SCOPE)),
            traffic,
            audit: Arc::new(Mutex::new(audit)),
            passed: Arc::default(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn assembly(&self, store: &Arc<FaultyStore>) -> Assembly {
        let rules = worker::rules(&(&self.config).into(), self.traffic.upstream.as_ref()).unwrap();
        let hosts = NetworkHosts::new(self.traffic.network.clone(), self.seed);
        let relay = "http://relay.test/";
        let repositories = repo::Parts {
            verification: Arc::new(Verification::new(
                self.config.verify,
                Identities::new(hosts.clone(), Limits::default()),
            )),
            hosts: Arc::new(hosts),
            host_clocks: Arc::default(),
            store: store.clone(),
            identity_store: None,
            folder: self.folder.path().to_owned(),
            source_http: relay.parse().unwrap(),
            backfill: Backfill {
                relay_index: relay.parse().unwrap(),
                ..worker::backfill(&(&self.config).into(), &rules.schemas)
            },
        };
        Assembly::new(Parts {
            options: (&self.config).into(),
            source: self.traffic.upstream.clone(),
            store: store.clone(),
            feed: None,
            views: Arc::default(),
            changes_token: None,
            rules,
            repositories: Some(repositories),
            listener: None,
            control: None,
            faults: Faults::planned(self.schedule.clone()),
        })
    }

    /// Runs one life of the process, until `end` at the latest. Returns all faults when no work is
    /// left.
    fn live(&mut self, end: Option<End>) -> Option<Vec<String>> {
        // Backoffs use the random generator of the thread.
        fastrand::seed(self.seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let begun = Instant::now();
            let ended = self.follow(end).await;
            self.passed.add(begun.elapsed());
            ended
        })
    }

    async fn follow(&mut self, end: Option<End>) -> Option<Vec<String>> {
        self.schedule.note_draining(false);
        let file = self.folder.path().join("huddle.db");
        let (schedule, audit) = (self.schedule.clone(), self.audit.clone());
        let store = FaultyStore::open(&file, schedule, audit, self.passed.clone()).await;
        let store = Arc::new(store);
        let assembly = self.assembly(&store);
        let mut tree = match RunningWorker::start(assembly).await {
            Ok(tree) => tree,
            Err(error) => return self.died(&error),
        };
        let is_settled = match self.watch(&mut tree, &store, end).await {
            Stop::AllSettled => true,
            Stop::Asked => false,
            Stop::Died(error) => return self.died(&error),
            Stop::Killed => return None,
        };
        let differences = match is_settled {
            true => {
                let shown = store.show().await;
                Some(self.audit.lock().unwrap().conclude(&shown))
            }
            false => None,
        };
        self.schedule.note_draining(true);
        match tree.drain().await {
            Ok(()) | Err(WorkerError::DrainDeadline(_)) => differences,
            Err(error) => self.died(&error).or(differences),
        }
    }

    /// Lets the network act until the tree has to stop.
    async fn watch(
        &mut self,
        tree: &mut RunningWorker,
        store: &FaultyStore,
        end: Option<End>,
    ) -> Stop {
        let begun = Instant::now();
        let mut blow = self.schedule.plan().blow.clone();
        loop {
            let blow_at = begun + blow.as_ref().map_or(SLOT_TIMEOUT, |blow| blow.at);
            let end_at = begun + end.map_or(SLOT_TIMEOUT, |end| end.after);
            tokio::select! {
                error = tree.failed() => return Stop::Died(error),
                () = self.traffic.flow(store) => return Stop::AllSettled,
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
                () = sleep_until(begun + SLOT_TIMEOUT) => {
                    panic!("{}: stood still at {}", self.name(), store.position());
                }
            }
        }
    }

    /// The process ends because its tree has ended.
    fn died(&self, error: &WorkerError) -> Option<Vec<String>> {
        let is_explained = self.schedule.has_struck_the_supervisor();
        assert!(is_explained, "{}: {error}", self.name());
        None
    }

    /// The command to run the seed again, and its schedule.
    fn name(&self) -> String {
        format!(
            "HUDDLE_VERIFIED_FAULT_SEEDS={} cargo test --test faults verified ({:?})",
            self.seed,
            self.schedule.plan()
        )
    }
}
