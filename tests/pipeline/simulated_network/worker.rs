//! The whole tree follows the network's relay, with a real file. Holds invariants 2.2 and 5.1.

use std::collections::BTreeSet;
use std::time::Duration;

use huddle_firehose::store::sqlite::{Counts, SqliteStore};
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use simulated_network::network::Network;
use simulated_network::relay::{Options, Relay};
use simulated_network::shape::Shape;
use tempfile::TempDir;
use test_support::simulation::config;
use test_support::simulation::tables::{assert_dead_letters_equal, assert_tables_equal};
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_agrees_with_the_simulated_network() {
    for seed in 0..4 {
        let options = Options {
            inclusive: seed % 2 == 0,
            ..Options::default()
        };
        let mut followed = Followed::start(seed, Shape::default(), options).await;
        for round in 0..8 {
            followed.grow(50);
            if round % 3 == 2 {
                followed.relay.drop_connections();
            }
            followed.until_applied().await;
        }
        assert_eq!(followed.compare().await.open_gaps, 0, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_agrees_also_after_the_relay_began_a_new_sequence() {
    for seed in 10..12 {
        let mut followed = Followed::start(seed, Shape::default(), Options::default()).await;
        followed.grow(150);
        followed.until_applied().await;
        followed.network.restart_sequence();
        followed.relay.forget();
        followed.grow(100);
        followed.until_applied().await;
        assert_eq!(followed.compare().await.open_gaps, 1, "seed {seed}");
    }
}

/// An inclusive relay sends the same hostile frames again after each reconnect.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_invalid_frames_and_records_become_dead_letters() {
    for seed in 20..22 {
        let options = Options {
            inclusive: seed % 2 == 0,
            ..Options::default()
        };
        let mut followed = Followed::start(seed, Shape::adversarial(), options).await;
        for round in 0..4 {
            followed.grow(60);
            if round % 2 == 1 {
                followed.relay.drop_connections();
            }
            followed.until_applied().await;
        }
        assert!(followed.network.oracle().refusals().len() > 20);
        followed.compare().await;
    }
}

/// A network that grows while a worker follows it.
struct Followed {
    seed: u64,
    network: Network,
    relay: Relay,
    tree: RunningWorker,
    database_url: String,
    _directory: TempDir,
}

impl Followed {
    async fn start(seed: u64, shape: Shape, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database_url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let network = Network::new(seed, shape);
        let relay = Relay::start(options).await.unwrap();
        relay.append(network.log());
        let config = config(&relay, &database_url);
        Self {
            seed,
            network,
            relay,
            tree: worker::start((&config).into(), None).await.unwrap(),
            database_url,
            _directory: directory,
        }
    }

    fn grow(&mut self, steps: usize) {
        self.relay.append(self.network.steps(steps));
        self.relay.append(self.network.conclude());
    }

    /// Waits until the last event of the log is durable.
    async fn until_applied(&self) {
        let seqs = self.network.log().iter().filter_map(|entry| entry.seq);
        let last = seqs.last();
        let applied = || {
            let status = self.tree.context().status.snapshot();
            let source = status.sources.values().next();
            source.map(|source| source.applied.seq)
        };
        let is_applied = async {
            while applied() != last {
                sleep(POLL_INTERVAL).await;
            }
        };
        let is_late = timeout(DEADLINE, is_applied).await.is_err();
        let seed = self.seed;
        assert!(!is_late, "seed {seed}: applied {:?} of {last:?}", applied());
    }

    /// Stops the worker, and compares every table with the network.
    async fn compare(self) -> Counts {
        self.tree.drain().await.unwrap();
        let store = SqliteStore::open(&self.database_url).await.unwrap();
        let oracle = self.network.oracle();
        let expected = oracle.in_stream(&BTreeSet::new());
        let context = format!("seed {}", self.seed);
        assert_tables_equal(&store, &expected, &context).await;
        assert_dead_letters_equal(&store, oracle, &context).await;
        store.counts().await.unwrap()
    }
}
