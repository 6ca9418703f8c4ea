//! A simulated network that grows while a worker follows it and verifies its events with the PLC
//! directory and the hosts.

use huddle_firehose::store::plan::ResyncCause;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::{Config, Verify};
use huddle_firehose::repo::RepositoriesMessage;
use huddle_firehose::store::repo_store::{
    DueRepo, JobKind, RepoChange, RepoEvent, RepoStore, Search,
};
use huddle_firehose::store::sqlite::{ResyncRow, SqliteStore};
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use jiff::{SignedDuration, Timestamp};
use simulated_network::http::HttpServer;
use simulated_network::network::Network;
use simulated_network::oracle::NetworkState;
use simulated_network::relay::{Options, Relay};
use simulated_network::shape::Shape;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::config;
use super::tables::{assert_accounts_equal, assert_visible_records_equal};

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub struct Verified {
    pub seed: u64,
    network: Arc<Mutex<Network>>,
    pub relay: Relay,
    /// The PLC directory, and the host of every account that has not moved.
    pub http: HttpServer,
    /// The relay over HTTP, which has a copy of every repository.
    pub mirror: HttpServer,
    pub tree: RunningWorker,
    /// The worker's tables, with connections of the test.
    pub store: SqliteStore,
    config: Config,
    directory: TempDir,
}

/// The row of a repository.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RepoRow {
    pub state: String,
    pub cause: Option<String>,
    pub rev: Option<String>,
    pub retry_at: Option<String>,
    pub attempts: i64,
}

/// The row of a record.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RecordRow {
    pub rkey: String,
    pub cid: Option<String>,
    pub rev: String,
    /// 0 if the record was fetched.
    pub seq: i64,
    pub verified: String,
}

impl Verified {
    /// Starts a worker at level `chain`, with a backfill.
    pub async fn start(seed: u64, shape: Shape) -> Self {
        Self::start_with(seed, shape, with_backfill).await
    }

    /// The same, with a network that has a history already.
    pub async fn start_late(seed: u64, network: Network) -> Self {
        Self::follow(seed, network, with_backfill).await
    }

    /// The same, with more settings.
    pub async fn start_late_with(
        seed: u64,
        network: Network,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        Self::follow(seed, network, |config| {
            with_backfill(config);
            change(config);
        })
        .await
    }

    /// Starts a worker at level `chain`, without a backfill, with more settings.
    pub async fn start_with(seed: u64, shape: Shape, change: impl FnOnce(&mut Config)) -> Self {
        Self::follow(seed, Network::new(seed, shape), change).await
    }

    /// Starts a worker on a network whose relay has sent all events so far.
    async fn follow(seed: u64, network: Network, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database_url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let network = Arc::new(Mutex::new(network));
        let http = HttpServer::start(network.clone()).await.unwrap();
        let mirror = HttpServer::start_mirror(network.clone()).await.unwrap();
        let relay = Relay::start_before(mirror.address(), Options::default())
            .await
            .unwrap();
        relay.append(network.lock().unwrap().log());
        let mut config = config(&relay, &database_url);
        config.verify = Verify::Chain;
        config.plc_url = http.url().parse().unwrap();
        config.directory_url = Some(http.url().parse().unwrap());
        config.backfill = false;
        config.allow_private_addresses = true;
        change(&mut config);
        Self {
            seed,
            network,
            relay,
            http,
            mirror,
            tree: worker::start((&config).into(), None).await.unwrap(),
            store: SqliteStore::open(&database_url).await.unwrap(),
            config,
            directory,
        }
    }

    /// Stops the worker, and starts another on its tables with other settings.
    #[must_use]
    pub async fn restart(self, change: impl FnOnce(&mut Config)) -> Self {
        self.restart_after(async |_| {}, change).await
    }

    /// Stops the worker, does `meanwhile` to its tables, and starts another on them.
    #[must_use]
    pub async fn restart_after(
        self,
        meanwhile: impl AsyncFnOnce(&SqliteStore),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        self.tree.drain().await.unwrap();
        meanwhile(&self.store).await;
        let mut config = self.config;
        change(&mut config);
        Self {
            tree: worker::start((&config).into(), None).await.unwrap(),
            config,
            ..self
        }
    }

    pub fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap()
    }

    /// Adds a host without accounts.
    pub async fn another_host(&self) -> HttpServer {
        HttpServer::start(self.network.clone()).await.unwrap()
    }

    pub fn did(&self, number: usize) -> Did {
        Did::parse(&self.network().accounts()[number].did).unwrap()
    }

    // === Actions ===

    pub fn grow(&self, steps: usize) {
        self.tell(|network| {
            network.steps(steps);
            network.conclude();
        });
    }

    /// Changes the network, and lets the relay send the events.
    pub fn tell<T>(&self, happen: impl FnOnce(&mut Network) -> T) -> T {
        let mut network = self.network();
        let before = network.log().len();
        let happened = happen(&mut network);
        self.relay.append(&network.log()[before..]);
        happened
    }

    /// Changes the network, and lets the relay lose the events.
    pub fn withhold<T>(&self, happen: impl FnOnce(&mut Network) -> T) -> T {
        happen(&mut self.network())
    }

    /// Requests a resync of an account's repository, as an operator would.
    pub async fn ask_for(&self, number: usize) {
        let did = self.did(number);
        let event = RepoEvent::RequestResync {
            cause: ResyncCause::Operator,
        };
        let change = RepoChange::Repo { did: &did, event };
        self.store.change(change).await.unwrap();
        let repositories = self.tree.context().repositories.as_ref().unwrap();
        let look = RepositoriesMessage::Wake;
        repositories.address.cast(look).unwrap();
    }

    // === Waits ===

    /// Waits until `is_so` holds.
    pub async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let so = async {
            while !is_so().await {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, so).await.is_err();
        assert!(!is_late, "seed {}: never came to pass: {what}", self.seed);
    }

    /// Waits until the last event of the log is durable.
    pub async fn until_applied(&self) {
        self.until("the last event is applied", async || self.is_applied())
            .await;
    }

    fn is_applied(&self) -> bool {
        let seqs: Vec<u64> = self
            .network()
            .log()
            .iter()
            .filter_map(|entry| entry.seq)
            .collect();
        let status = self.tree.context().status.snapshot();
        let source = status.sources.values().next();
        source.map(|source| source.applied.seq) == seqs.last().copied()
    }

    /// Waits until the last event of the log is durable, and no job is due or parked.
    pub async fn until_settled(&self) {
        let done = async {
            while !(self.is_applied() && self.unsettled().await.is_empty()) {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, done).await.is_err();
        let (applied, unsettled) = (self.is_applied(), self.unsettled().await);
        let seed = self.seed;
        assert!(!is_late, "seed {seed}: applied: {applied}, {unsettled:?}");
    }

    /// The work that is due now or later. An unconfirmed status may become work on a repository,
    /// and the other way round, so it is checked twice.
    async fn unsettled(&self) -> Vec<String> {
        let mut found = Vec::new();
        for _ in 0..2 {
            // The jobs of repositories whose accounts are inactive rest until much later.
            let soon = Timestamp::now() + SignedDuration::from_hours(12);
            for kind in JobKind::ALL {
                let due = self.store.due(kind, soon, 9).await.unwrap();
                let due = due.iter().filter(|repo| !is_made_up(repo));
                found.extend(due.map(|repo| format!("{repo:?}")));
            }
            let handles = self.store.due_handles(soon, 9).await.unwrap();
            found.extend(handles.iter().map(|due| format!("{due:?}")));
            let unconfirmed = self.store.unconfirmed(soon, 9).await.unwrap();
            found.extend(
                unconfirmed
                    .iter()
                    .map(|unconfirmed| format!("{unconfirmed:?}")),
            );
        }
        found
    }

    /// Starts the discovery of repositories again.
    pub async fn look_again(&self) {
        let store = &self.store;
        if self.config.backfill {
            self.until("the searches are known", async || {
                !store.discoveries().await.unwrap().is_empty()
            })
            .await;
        }
        let discoveries = store.discoveries().await.unwrap();
        let searches: Vec<Search> = discoveries
            .into_iter()
            .map(|discovery| discovery.search)
            .collect();
        store.begin_discovery(&searches, true).await.unwrap();
        self.until("the search is over", async || {
            store.repo_counts().await.unwrap().backfill.discovering == 0
        })
        .await;
        self.until_settled().await;
    }

    /// Waits until no gap is open.
    pub async fn until_closed(&self) {
        self.until("every gap is closed", async || {
            self.store.open_gaps().await.unwrap().is_empty()
        })
        .await;
    }

    // === Tables ===

    pub async fn count(&self, query: &str) -> i64 {
        let counted = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
        counted.fetch_one(self.store.reader()).await.unwrap()
    }

    /// The parked frames of an account.
    pub async fn waiting(&self, number: usize) -> i64 {
        let did = self.did(number);
        self.count(&format!(
            "SELECT count(*) FROM kept_parked_commits WHERE did = '{did}'"
        ))
        .await
    }

    /// The repositories whose parked commits wait for what is their account's own.
    pub async fn waiting_for_their_accounts(&self) -> i64 {
        let query = "SELECT count(*) FROM repos WHERE has_parked = 1 AND waits_for_account = 1";
        self.count(query).await
    }

    /// The visible records of an account.
    pub async fn visible(&self, number: usize) -> i64 {
        let did = self.did(number);
        self.count(&format!(
            "SELECT count(*) FROM visible_records WHERE did = '{did}'"
        ))
        .await
    }

    /// The records and tombstones of an account, in the order of their URIs.
    pub async fn records(&self, number: usize) -> Vec<RecordRow> {
        let query = "SELECT rkey, cid, rev, seq, verified FROM records WHERE did = ? ORDER BY uri";
        let rows = sqlx::query_as(query).bind(self.did(number).to_string());
        rows.fetch_all(self.store.reader()).await.unwrap()
    }

    /// The attempts to fetch an account's repository, the oldest first.
    pub async fn resyncs(&self, number: usize) -> Vec<ResyncRow> {
        let query = "SELECT did, cause, host, started_at, ended_at, rev, created, updated, deleted, \
                     unchanged, bytes, error FROM resyncs WHERE did = ? ORDER BY id";
        let rows = sqlx::query_as(query).bind(self.did(number).to_string());
        rows.fetch_all(self.store.reader()).await.unwrap()
    }

    /// `None` if the repository is not tracked.
    pub async fn repo(&self, number: usize) -> Option<RepoRow> {
        let query = "SELECT state, cause, rev, retry_at, attempts FROM repos WHERE did = ?";
        let row = sqlx::query_as(query).bind(self.did(number).to_string());
        row.fetch_optional(self.store.reader()).await.unwrap()
    }

    /// Stage and raw bytes of each dead letter.
    pub async fn dead_letters(&self) -> Vec<(String, Vec<u8>)> {
        let rows = sqlx::query_as("SELECT stage, raw FROM dead_letters ORDER BY id");
        rows.fetch_all(self.store.reader()).await.unwrap()
    }

    /// The counters of failed verifications, as an operator sees them.
    pub fn verify_errors(&self) -> Vec<String> {
        let text = self.tree.prometheus().render();
        let lines = text.lines();
        let errors = lines.filter(|line| line.starts_with("huddle_verify_errors_total"));
        errors.map(str::to_owned).collect()
    }

    // === End ===

    /// Stops the worker, and compares visible records and accounts with the network.
    pub async fn compare(self) {
        let (store, expected, context, _directory) = self.end().await;
        assert_visible_records_equal(&store, &expected, &context).await;
        assert_accounts_equal(&store, &expected, &context).await;
    }

    /// The same, for the records only.
    pub async fn compare_records(self) {
        let (store, expected, context, _directory) = self.end().await;
        assert_visible_records_equal(&store, &expected, &context).await;
    }

    async fn end(self) -> (SqliteStore, NetworkState, String, TempDir) {
        let mut expected = self.network().oracle().now();
        let tracked = self.store.tracked().await.unwrap();
        // A handle that no event names is taken from the document, if the account is kept.
        {
            let network = self.network();
            for account in network.accounts() {
                let did = &account.did;
                if network.is_unnamed(did)
                    && let Some(expected) = expected.get_mut(did)
                {
                    expected.handle = tracked.contains(did).then(|| account.handle.clone());
                }
            }
        }
        self.tree.drain().await.unwrap();
        let context = format!("seed {}", self.seed);
        (self.store, expected, context, self.directory)
    }
}

fn with_backfill(config: &mut Config) {
    config.backfill = true;
    // A discovery needs full names of collections.
    config
        .collections
        .push("com.huddle.profile".parse().unwrap());
}

/// Whether the retries of an account that does not exist are all that is left. They go on for a
/// while after a relay has sent an event of such an account.
fn is_made_up(repo: &DueRepo) -> bool {
    repo.attempts > 0 && repo.cause == Some(ResyncCause::Refused)
}
