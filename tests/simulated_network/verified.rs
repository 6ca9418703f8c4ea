//! The whole tree at level `chain`: it follows the relay, and asks directory and hosts. So it comes to
//! hold what the network holds, whatever the relay has told of it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use huddle_firehose::config::Verify;
use huddle_firehose::protocol::syntax::Nsid;
use huddle_firehose::store::repos::{RepoStore, Unsettled, Urgency};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::supervision::tree::Tree;
use huddle_firehose::worker;
use jiff::Timestamp;
use simulated_network::account::Account;
use simulated_network::frame::{self, LogEntry, Stamp};
use simulated_network::http::HttpServer;
use simulated_network::key::SigningKey;
use simulated_network::network::Network;
use simulated_network::oracle::Truth;
use simulated_network::record::SLOT_OFFER;
use simulated_network::relay::{Options, Relay};
use simulated_network::repo::Write;
use simulated_network::shape::Shape;
use simulated_network::tid::tid;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::tables::{assert_accounts_equal, assert_visible_records_equal};
use super::worker::config;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_sync_tells_is_fetched() {
    for seed in seeds(30..34) {
        let shape = Shape {
            migrations: 6,
            ..Shape::default()
        };
        let mut verified = Verified::start(seed, shape).await;
        for round in 0..6 {
            verified.grow(50);
            if round % 3 == 2 {
                verified.relay.drop_connections();
            }
            verified.until_settled().await;
        }
        // Of a repository that nothing was seen of, nobody asks when it says no more than `#sync`.
        verified.look_again().await;
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_relay_says_changes_nothing_in_the_end() {
    for seed in seeds(40..43) {
        let mut verified = Verified::start(seed, Shape::adversarial()).await;
        for round in 0..4 {
            verified.grow(60);
            if round % 2 == 1 {
                verified.relay.drop_connections();
            }
            verified.until_settled().await;
        }
        verified.compare().await;
    }
}

/// Events that nobody can ask for again, deletions among them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_in_a_gap_is_fetched_and_the_gap_is_closed() {
    for seed in seeds(50..53) {
        let mut verified = Verified::start(seed, Shape::default()).await;
        verified.grow(100);
        verified.until_settled().await;
        // Nobody hears of what follows.
        verified.network().steps(100);
        verified.network().restart_sequence();
        verified.relay.forget();
        verified.grow(50);
        verified.until_settled().await;
        verified.until_closed().await;
        // Handles and statuses come by events alone.
        verified.compare_records().await;
    }
}

/// Whoever hears of commits by a key that is no longer the account's knows only that something has
/// happened. What it came to, the host tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_by_a_key_from_before_is_superseded_and_not_refused() {
    for seed in seeds(60..63) {
        let shape = Shape {
            key_rotations: 8,
            ..Shape::default()
        };
        let mut network = Network::new(seed, shape);
        network.steps(200);
        network.conclude();
        let mut verified = Verified::follow(seed, network).await;
        verified.until_settled().await;
        verified.grow(100);
        verified.until_settled().await;
        verified.look_again().await;
        assert_eq!(verified.refused().await, [""; 0], "seed {seed}");
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_by_a_stranger_is_refused_and_changes_nothing() {
    for seed in seeds(70..72) {
        let mut verified = Verified::start(seed, Shape::default()).await;
        verified.grow(100);
        verified.until_settled().await;
        let did = verified.forge();
        let refused = async {
            while verified.refused().await.is_empty() {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, refused).await.is_err();
        assert!(!is_late, "seed {seed}: the forgery was not refused");
        assert_eq!(verified.refused().await, [did], "seed {seed}");
        verified.compare().await;
    }
}

/// The seeds that the environment asks for, or else the default ones.
fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("HUDDLE_VERIFIED_SEEDS") else {
        return default;
    };
    let number = |text: &str| text.parse::<u64>().unwrap();
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}

/// A network that a worker follows while it grows.
pub(crate) struct Verified {
    seed: u64,
    network: Arc<Mutex<Network>>,
    relay: Relay,
    _http: HttpServer,
    tree: Tree,
    database_url: String,
    directory: TempDir,
}

impl Verified {
    pub(crate) async fn start(seed: u64, shape: Shape) -> Self {
        Self::follow(seed, Network::new(seed, shape)).await
    }

    /// Follows a network in which things have happened already.
    async fn follow(seed: u64, network: Network) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database_url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let relay = Relay::start(Options::default()).await.unwrap();
        relay.append(network.log());
        let network = Arc::new(Mutex::new(network));
        let http = HttpServer::start(network.clone()).await.unwrap();
        let mut config = config(&relay, &database_url);
        config.verify = Verify::Chain;
        config.plc_url = http.url().parse().unwrap();
        config.directory_url = Some(http.url().parse().unwrap());
        config.backfill = true;
        // A search is for collections that have a name.
        config
            .collections
            .push("com.huddle.profile".parse().unwrap());
        config.allow_private_addresses = true;
        Self {
            seed,
            network,
            relay,
            _http: http,
            tree: worker::start(config, None).await.unwrap(),
            database_url,
            directory,
        }
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap()
    }

    fn grow(&mut self, steps: usize) {
        let mut network = self.network();
        self.relay.append(network.steps(steps));
        self.relay.append(network.conclude());
    }

    /// Has somebody else speak for an account that has records: a commit that follows from its last
    /// one, signed by another key. Returns whose it is not.
    fn forge(&self) -> String {
        let network = self.network();
        let last = network.log().iter().filter_map(|entry| entry.seq).last();
        let is_followed =
            |account: &&Account| account.is_active() && account.repo.has_collection(SLOT_OFFER);
        let account = network.accounts().iter().find(is_followed).unwrap();
        let mut repo = account.repo.clone();
        repo.rotate_key(SigningKey::generate(&mut Rng::with_seed(self.seed)));
        let micros = u64::try_from(Timestamp::now().as_microsecond()).unwrap();
        let path = repo.paths().find(|path| path.starts_with(SLOT_OFFER));
        let write = Write {
            path: path.unwrap().to_owned(),
            value: None,
        };
        let commit = repo.apply(vec![write], tid(micros, 0));
        let stamp = Stamp {
            seq: last.unwrap() + 1,
            time: Timestamp::now().to_string(),
        };
        let seq = stamp.seq;
        let frame = frame::commit(stamp, &account.did, commit);
        self.relay.append(&[LogEntry::numbered(seq, frame)]);
        account.did.clone()
    }

    /// Of whom something was refused.
    async fn refused(&self) -> Vec<String> {
        let store = SqliteStore::open(&self.database_url).await.unwrap();
        sqlx::query_scalar("SELECT did FROM dead_letters WHERE stage = 'verify' ORDER BY id")
            .fetch_all(store.reader())
            .await
            .unwrap()
    }

    /// Waits until the last event of the log is durable, and nothing waits for anybody.
    async fn until_settled(&self) {
        let last = self
            .network()
            .log()
            .iter()
            .filter_map(|entry| entry.seq)
            .last();
        let context = self.tree.context();
        let applied = || {
            let status = context.status.snapshot();
            let source = status.sources.values().next();
            source.map(|source| source.applied.seq)
        };
        let repositories = context.repositories.as_ref().unwrap();
        let settled = async {
            loop {
                if applied() == last && is_settled(&*repositories.store).await {
                    return;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, settled).await.is_err();
        let unsettled = unsettled(&*repositories.store).await;
        let hearsay = repositories.store.hearsay(Timestamp::MAX, 9).await.unwrap();
        let store = SqliteStore::open(&self.database_url).await.unwrap();
        assert!(
            !is_late,
            "seed {}: applied {:?} of {last:?}, {unsettled:?}, {hearsay:?}, {:?}",
            self.seed,
            applied(),
            store.last_resyncs(9).await.unwrap()
        );
    }

    /// Looks once more for the repositories that hold something.
    async fn look_again(&self) {
        let context = self.tree.context();
        let store = &context.repositories.as_ref().unwrap().store;
        let enumerations = store.enumerations().await.unwrap();
        let collections: Vec<Nsid> = enumerations
            .into_iter()
            .map(|enumeration| enumeration.collection)
            .collect();
        store.begin_enumeration(&collections, true).await.unwrap();
        let over = async {
            while store.repo_counts().await.unwrap().backfill.enumerating > 0 {
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(DEADLINE, over).await.unwrap();
        self.until_settled().await;
    }

    /// Waits until no gap is open.
    async fn until_closed(&self) {
        let context = self.tree.context();
        let source = context.source.id();
        let closed = async {
            while context.store.count_open_gaps(source).await.unwrap() > 0 {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, closed).await.is_err();
        assert!(!is_late, "seed {}: a gap is open", self.seed);
    }

    /// Stops the worker, and holds what it shows against the truth.
    async fn compare(self) {
        let ended = self.end().await;
        let Ended {
            store,
            truth,
            context,
            ..
        } = &ended;
        assert_visible_records_equal(store, truth, context).await;
        assert_accounts_equal(store, truth, context).await;
    }

    /// The same, for the records alone.
    async fn compare_records(self) {
        let ended = self.end().await;
        let Ended {
            store,
            truth,
            context,
            ..
        } = &ended;
        assert_visible_records_equal(store, truth, context).await;
    }

    async fn end(self) -> Ended {
        self.tree.drain().await.unwrap();
        let store = SqliteStore::open(&self.database_url).await.unwrap();
        let truth = self.network.lock().unwrap().oracle().now();
        Ended {
            store,
            truth,
            context: format!("seed {}", self.seed),
            _directory: self.directory,
        }
    }
}

/// Repositories that somebody has to see to, now or later, unless their accounts are gone, or were never
/// there: somebody made them up.
async fn unsettled(store: &dyn RepoStore) -> Vec<Unsettled> {
    let mut unsettled = Vec::new();
    for urgency in Urgency::ALL {
        let due = store.due(urgency, Timestamp::MAX, 9).await.unwrap();
        let is_made_up =
            |repo: &Unsettled| repo.attempts > 0 && repo.cause.as_deref() == Some("refused");
        unsettled.extend(due.into_iter().filter(|repo| !is_made_up(repo)));
    }
    unsettled
}

/// Whether nothing is left to do. What is said of accounts may become work on repositories, and the other
/// way round, so it is looked twice.
async fn is_settled(store: &dyn RepoStore) -> bool {
    let mut is_settled = true;
    for _ in 0..2 {
        is_settled &= unsettled(store).await.is_empty();
        is_settled &= store.hearsay(Timestamp::MAX, 1).await.unwrap().is_empty();
    }
    is_settled
}

/// What a worker has left.
struct Ended {
    store: SqliteStore,
    truth: Truth,
    context: String,
    _directory: TempDir,
}
