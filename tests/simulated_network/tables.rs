//! The whole tree follows the network's relay into a real file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use huddle_firehose::config::{Config, Layers};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::supervision::tree::Tree;
use huddle_firehose::worker;
use serde_json::Value;
use simulated_network::network::Network;
use simulated_network::oracle::{Record, Truth, Visibility, malformed, records, select};
use simulated_network::record::{BOOKING, BOOKING_REQUEST, SLOT_OFFER};
use simulated_network::relay::{Options, Relay};
use tokio::time::{sleep, timeout};

use super::network;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_agrees_with_the_simulated_network() {
    for seed in 0..4 {
        let options = Options {
            inclusive: seed % 2 == 0,
            ..Options::default()
        };
        follow(seed, options).await;
    }
}

/// Lets the network grow while it is followed, with the connection cut off every now and then.
async fn follow(seed: u64, options: Options) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
    let mut network = network(seed);
    let relay = Relay::start(options).await.unwrap();
    relay.append(network.log());

    let tree = worker::start(config(&relay, &url), None).await.unwrap();
    for round in 0..8 {
        relay.append(network.steps(50));
        if round % 3 == 2 {
            relay.drop_connections();
        }
        until_applied(&tree, last_seq(&network)).await;
    }
    tree.drain().await.unwrap();

    let store = SqliteStore::open(&url).await.unwrap();
    compare(&store, &network.oracle().now(), seed).await;
}

fn config(relay: &Relay, database_url: &str) -> Config {
    let mut config = Layers::new().resolve().unwrap().config;
    config.source_url = relay.url().parse().unwrap();
    config.database_url = database_url.to_owned();
    config.validation = "flag".parse().unwrap();
    config.collections = vec!["com.huddle.*".parse().unwrap()];
    // Small enough that a batch ends within most of what happens.
    config.batch_frames = 7;
    config.index_batch = 5;
    config.decoders = 3;
    config.checkpoint_interval = Duration::from_millis(20);
    config.reconnect_min = Duration::from_millis(10);
    config
}

fn last_seq(network: &Network) -> u64 {
    let seqs = network.log().iter().filter_map(|entry| entry.seq);
    seqs.last().unwrap()
}

async fn until_applied(tree: &Tree, seq: u64) {
    let status = tree.context().status.clone();
    let applied = || {
        let status = status.snapshot();
        status
            .sources
            .values()
            .next()
            .map(|source| source.applied.seq)
    };
    let is_applied = async {
        while applied() != Some(seq) {
            sleep(POLL_INTERVAL).await;
        }
    };
    if timeout(DEADLINE, is_applied).await.is_err() {
        panic!("applied through {:?} of {seq}", applied());
    }
}

async fn compare(store: &SqliteStore, truth: &Truth, seed: u64) {
    let wanted = |visibility| select(truth, visibility, |path| path.starts_with("com.huddle."));
    let live = wanted(Visibility::Live);
    let mut kept = wanted(Visibility::Hidden);
    kept.extend(live.clone());
    assert!(!live.is_empty(), "seed {seed}");

    let table = "records WHERE deleted = 0";
    assert_eq!(
        stored_records(store, table).await,
        told(&kept),
        "seed {seed}"
    );
    let view = "visible_records";
    assert_eq!(
        stored_records(store, view).await,
        told(&live),
        "seed {seed}"
    );
    assert_eq!(
        stored_accounts(store).await,
        told_accounts(truth),
        "seed {seed}"
    );

    let mut valid = records(truth, Visibility::Live);
    valid.extend(records(truth, Visibility::Hidden));
    for visibility in [Visibility::Live, Visibility::Hidden] {
        for uri in malformed(truth, visibility).keys() {
            valid.remove(uri);
        }
    }
    for (table, collection) in [
        ("offers_index", SLOT_OFFER),
        ("booking_requests", BOOKING_REQUEST),
        ("bookings", BOOKING),
    ] {
        let of_collection = |uri: &&String| uri.contains(&format!("/{collection}/"));
        let expected: BTreeSet<String> = valid.keys().filter(of_collection).cloned().collect();
        let uris = format!("SELECT uri FROM {table}");
        let stored: Vec<(String,)> = fetch(store, &uris).await;
        let stored: BTreeSet<String> = stored.into_iter().map(|(uri,)| uri).collect();
        assert_eq!(stored, expected, "{table}, seed {seed}");
    }
    let counts = store.counts().await.unwrap();
    assert_eq!(
        (counts.dead_letters, counts.open_gaps),
        (0, 0),
        "seed {seed}"
    );
}

/// CID and value by URI.
type Records = BTreeMap<String, (String, Value)>;

fn told(records: &BTreeMap<String, &Record>) -> Records {
    records
        .iter()
        .map(|(uri, record)| (uri.clone(), (record.cid.to_string(), record.value.clone())))
        .collect()
}

async fn stored_records(store: &SqliteStore, table: &str) -> Records {
    let rows: Vec<(String, String, String)> =
        fetch(store, &format!("SELECT uri, cid, record FROM {table}")).await;
    rows.into_iter()
        .map(|(uri, cid, record)| (uri, (cid, serde_json::from_str(&record).unwrap())))
        .collect()
}

/// Handle and status by DID.
type Accounts = BTreeMap<String, (Option<String>, Option<String>)>;

fn told_accounts(truth: &Truth) -> Accounts {
    truth
        .iter()
        .map(|(did, account)| {
            (
                did.clone(),
                (account.handle.clone(), account.status.clone()),
            )
        })
        .collect()
}

async fn stored_accounts(store: &SqliteStore) -> Accounts {
    let rows: Vec<(String, Option<String>, bool, Option<String>)> =
        fetch(store, "SELECT did, handle, active, status FROM accounts").await;
    rows.into_iter()
        .map(|(did, handle, active, status)| {
            assert_eq!(active, status.is_none(), "{did}");
            (did, (handle, status))
        })
        .collect()
}

async fn fetch<T>(store: &SqliteStore, query: &str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
{
    // The queries are this file's own.
    sqlx::query_as(sqlx::AssertSqlSafe(query))
        .fetch_all(store.reader())
        .await
        .unwrap()
}
