//! Commits whose signatures, proofs and chains are verified, against their signatures alone.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use huddle_firehose::config::Verify;
use huddle_firehose::supervision::tree::Tree;
use huddle_firehose::worker;
use simulated_network::http::HttpServer;
use simulated_network::relay::{Options, Relay};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::chains::{Chains, Signed};
use crate::rows::Round;
use crate::{database, runtime, service};

/// Commits of a round; each is sent once, since a chain can't be gone twice.
const COMMITS: usize = 10_000;
/// Signatures that a thread takes at once.
const HANDFUL: usize = 16;

/// The time of the signature checks alone, on all cores, against that of the whole worker at level
/// `chain`, which checks the same signatures and does all the rest: socket, decoding, hashes, proofs
/// by the tree, inversion, chain state and rows.
pub(crate) fn measure() -> Round {
    static CHAINS: OnceLock<Chains> = OnceLock::new();
    let chains = CHAINS.get_or_init(|| Chains::new(COMMITS));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let upstream = Upstream::start(chains);
    Round {
        events: COMMITS as u64,
        bare: check_signatures(&chains.signed),
        worker: runtime().block_on(follow(chains, &upstream, &path)),
    }
}

/// A relay and a directory, on a thread of their own.
struct Upstream {
    relay: Relay,
    directory: HttpServer,
    _runtime: Runtime,
}

impl Upstream {
    fn start(chains: &Chains) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("upstream")
            .enable_all()
            .build()
            .unwrap();
        let (relay, directory) = runtime.block_on(async {
            let relay = Relay::start(Options::default()).await.unwrap();
            let directory = HttpServer::start(chains.network.clone()).await.unwrap();
            (relay, directory)
        });
        Self {
            relay,
            directory,
            _runtime: runtime,
        }
    }
}

/// How long it takes from the first commit until the cursor stands behind the last one. Every account
/// was looked up before: that happens once a day for each, not once a commit.
async fn follow(chains: &Chains, upstream: &Upstream, path: &Path) -> Duration {
    database::create(path).await;
    let config = service::config(&upstream.relay.url(), path, |config| {
        config.verify = Verify::Chain;
        config.plc_url = upstream.directory.url().parse().unwrap();
        config.allow_private_addresses = true;
    });
    let tree = worker::start(config, None).await.unwrap();
    look_up(&tree, chains).await;
    let started = Instant::now();
    upstream.relay.append(&chains.log);
    service::wait_for(&tree, chains.last_seq()).await;
    let elapsed = started.elapsed();
    let metrics = tree.context().prometheus.render();
    tree.drain().await.unwrap();
    assert_verified(&metrics, path).await;
    elapsed
}

async fn look_up(tree: &Tree, chains: &Chains) {
    let repositories = tree.context().repositories.as_ref().unwrap();
    let identities = &repositories.verification.identities;
    let answers = join_all(chains.dids.iter().map(|did| identities.get(did))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

/// A worker that has put a commit off, refused it or fetched its repository has done something else
/// than what is measured.
async fn assert_verified(metrics: &str, path: &Path) {
    for (name, count) in [
        ("huddle_verified_total{level=\"chain\"}", COMMITS),
        ("huddle_unproven_total", 0),
        ("huddle_redelivered_total", 0),
    ] {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        assert_eq!(line.map(str::trim), Some(&*count.to_string()), "{name}");
    }
    for (rows, count) in [
        ("records", COMMITS),
        ("records WHERE verified = 'chain' AND deleted = 0", COMMITS),
        ("repos WHERE state <> 'synchronized' OR has_waiting", 0),
        ("repos WHERE doubted_by IS NOT NULL", 0),
        ("dead_letters", 0),
        ("gaps", 0),
        ("resyncs", 0),
        ("waiting_commits", 0),
    ] {
        assert_eq!(database::count(path, rows).await, count, "{rows}");
    }
}

/// How long it takes as many threads as there are cores to check `signed`, whose keys are read.
fn check_signatures(signed: &[Signed]) -> Duration {
    let threads = std::thread::available_parallelism().unwrap().get();
    let handfuls: Vec<&[Signed]> = signed.chunks(HANDFUL).collect();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(handful) = handfuls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for (commit, key) in *handful {
                        commit.verify(key).unwrap();
                    }
                }
            });
        }
    });
    started.elapsed()
}
