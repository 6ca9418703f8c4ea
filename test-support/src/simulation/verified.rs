//! A network that a worker follows while it grows, and verifies what it is told: it asks directory and
//! hosts.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use huddle_firehose::atproto::syntax::{Did, Nsid};
use huddle_firehose::config::{Config, Verify};
use huddle_firehose::repo::RepositoriesMessage;
use huddle_firehose::store::repos::{DueRepo, JobKind, RepoChange, RepoEvent, RepoStore};
use huddle_firehose::store::sqlite::{ResyncRow, SqliteStore};
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use jiff::Timestamp;
use simulated_network::http::HttpServer;
use simulated_network::network::Network;
use simulated_network::oracle::Truth;
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
    /// The directory, and the host of every account that has not moved.
    pub http: HttpServer,
    /// The relay over HTTP, which has a copy of every repository.
    pub mirror: HttpServer,
    pub tree: RunningWorker,
    /// The worker's tables, by connections of the test's own.
    pub store: SqliteStore,
    directory: TempDir,
}

/// What the tables know of a repository.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RepoRow {
    pub state: String,
    pub cause: Option<String>,
    pub rev: Option<String>,
    pub retry_at: Option<String>,
    pub attempts: i64,
}

/// A record as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RecordRow {
    pub rkey: String,
    pub cid: Option<String>,
    pub rev: String,
    /// 0 where it was fetched.
    pub seq: i64,
    pub verified: String,
}

impl Verified {
    /// A worker at level `chain` that looks for history too.
    pub async fn start(seed: u64, shape: Shape) -> Self {
        Self::start_with(seed, shape, looking_for_history).await
    }

    /// The same, before a network in which things have happened.
    pub async fn start_late(seed: u64, network: Network) -> Self {
        Self::follow(seed, network, looking_for_history).await
    }

    /// A worker at level `chain`, without a look for history, with further settings.
    pub async fn start_with(seed: u64, shape: Shape, change: impl FnOnce(&mut Config)) -> Self {
        Self::follow(seed, Network::new(seed, shape), change).await
    }

    /// The relay has told all that has happened so far.
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
            directory,
        }
    }

    pub fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap()
    }

    /// A further host, where nobody lives yet.
    pub async fn another_host(&self) -> HttpServer {
        HttpServer::start(self.network.clone()).await.unwrap()
    }

    pub fn did(&self, number: usize) -> Did {
        Did::parse(&self.network().accounts()[number].did).unwrap()
    }

    // === What happens ===

    pub fn grow(&self, steps: usize) {
        self.tell(|network| {
            network.steps(steps);
            network.conclude();
        });
    }

    /// Lets something happen, of which the relay tells.
    pub fn tell<T>(&self, happen: impl FnOnce(&mut Network) -> T) -> T {
        let mut network = self.network();
        let before = network.log().len();
        let happened = happen(&mut network);
        self.relay.append(&network.log()[before..]);
        happened
    }

    /// Lets something happen, of which nobody hears.
    pub fn withhold<T>(&self, happen: impl FnOnce(&mut Network) -> T) -> T {
        happen(&mut self.network())
    }

    /// Has an account's repository fetched, as an operator would.
    pub async fn ask_for(&self, number: usize) {
        let did = self.did(number);
        let event = RepoEvent::RequestResync { cause: "operator" };
        let change = RepoChange::Repo { did: &did, event };
        self.store.change(change).await.unwrap();
        let repositories = self.tree.context().repositories.as_ref().unwrap();
        let look = RepositoriesMessage::Wake;
        repositories.address.cast(look).unwrap();
    }

    // === Until when ===

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

    /// Waits until the last event of the log is durable, and nothing waits for anybody.
    pub async fn until_settled(&self) {
        let settled = async {
            while !(self.is_applied() && self.unsettled().await.is_empty()) {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, settled).await.is_err();
        let (applied, unsettled) = (self.is_applied(), self.unsettled().await);
        let seed = self.seed;
        assert!(!is_late, "seed {seed}: applied: {applied}, {unsettled:?}");
    }

    /// What somebody has to see to, now or later. What is said of accounts may become work on
    /// repositories, and the other way round, so it is looked twice.
    async fn unsettled(&self) -> Vec<String> {
        let mut found = Vec::new();
        for _ in 0..2 {
            for urgency in JobKind::ALL {
                let due = self.store.due(urgency, Timestamp::MAX, 9).await.unwrap();
                let due = due.iter().filter(|repo| !is_made_up(repo));
                found.extend(due.map(|repo| format!("{repo:?}")));
            }
            let unconfirmed = self.store.unconfirmed(Timestamp::MAX, 9).await.unwrap();
            found.extend(
                unconfirmed
                    .iter()
                    .map(|unconfirmed| format!("{unconfirmed:?}")),
            );
        }
        found
    }

    /// Looks once more for the repositories that hold something.
    pub async fn look_again(&self) {
        let store = &self.store;
        let discoveries = store.discoveries().await.unwrap();
        let collections: Vec<Nsid> = discoveries
            .into_iter()
            .map(|discovery| discovery.collection)
            .collect();
        store.begin_discovery(&collections, true).await.unwrap();
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

    // === What is in the tables ===

    pub async fn count(&self, query: &str) -> i64 {
        let counted = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
        counted.fetch_one(self.store.reader()).await.unwrap()
    }

    /// The frames of an account that wait.
    pub async fn waiting(&self, number: usize) -> i64 {
        let did = self.did(number);
        self.count(&format!(
            "SELECT count(*) FROM parked_commits WHERE did = '{did}'"
        ))
        .await
    }

    /// The records of an account that are shown.
    pub async fn visible(&self, number: usize) -> i64 {
        let did = self.did(number);
        self.count(&format!(
            "SELECT count(*) FROM visible_records WHERE did = '{did}'"
        ))
        .await
    }

    /// The records of an account and the tombstones, in the order of their URIs.
    pub async fn records(&self, number: usize) -> Vec<RecordRow> {
        let query = "SELECT rkey, cid, rev, seq, verified FROM records WHERE did = ? ORDER BY uri";
        let rows = sqlx::query_as(query).bind(self.did(number).to_string());
        rows.fetch_all(self.store.reader()).await.unwrap()
    }

    /// The attempts to fetch an account's repository, the first one first.
    pub async fn resyncs(&self, number: usize) -> Vec<ResyncRow> {
        let query = "SELECT did, cause, host, started_at, ended_at, rev, created, updated, deleted, \
                     unchanged, bytes, error FROM resyncs WHERE did = ? ORDER BY id";
        let rows = sqlx::query_as(query).bind(self.did(number).to_string());
        rows.fetch_all(self.store.reader()).await.unwrap()
    }

    /// `None` where the repository is not tracked.
    pub async fn repo(&self, number: usize) -> Option<RepoRow> {
        let query = "SELECT state, cause, rev, retry_at, attempts FROM repos WHERE did = ?";
        let row = sqlx::query_as(query).bind(self.did(number).to_string());
        row.fetch_optional(self.store.reader()).await.unwrap()
    }

    /// Stage and raw bytes.
    pub async fn dead_letters(&self) -> Vec<(String, Vec<u8>)> {
        let rows = sqlx::query_as("SELECT stage, raw FROM dead_letters ORDER BY id");
        rows.fetch_all(self.store.reader()).await.unwrap()
    }

    /// The counters of what was wrong with proofs, as an operator sees them.
    pub fn verify_errors(&self) -> Vec<String> {
        let text = self.tree.prometheus().render();
        let lines = text.lines();
        let errors = lines.filter(|line| line.starts_with("huddle_verify_errors_total"));
        errors.map(str::to_owned).collect()
    }

    // === In the end ===

    /// Stops the worker, and holds what it shows against the truth.
    pub async fn compare(self) {
        let (store, truth, context, _directory) = self.end().await;
        assert_visible_records_equal(&store, &truth, &context).await;
        assert_accounts_equal(&store, &truth, &context).await;
    }

    /// The same, for the records alone.
    pub async fn compare_records(self) {
        let (store, truth, context, _directory) = self.end().await;
        assert_visible_records_equal(&store, &truth, &context).await;
    }

    async fn end(self) -> (SqliteStore, Truth, String, TempDir) {
        let truth = self.network().oracle().now();
        self.tree.drain().await.unwrap();
        let context = format!("seed {}", self.seed);
        (self.store, truth, context, self.directory)
    }
}

fn looking_for_history(config: &mut Config) {
    config.backfill = true;
    // A search is for collections that have a name.
    config
        .collections
        .push("com.huddle.profile".parse().unwrap());
}

/// A relay has told of an account that is nowhere. It is looked for a while.
fn is_made_up(repo: &DueRepo) -> bool {
    repo.attempts > 0 && repo.cause.as_deref() == Some("refused")
}
