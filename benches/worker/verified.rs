//! Commits whose signatures, proofs and chains are verified, against their signatures alone.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use huddle_firehose::config::Verify;
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use simulated_network::http::HttpServer;
use simulated_network::relay::{Options, Relay};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::chains::{Chains, Signed};
use crate::rows::Round;
use crate::{database, runtime, service};

/// Commits of a round; each is sent once, since a chain can't be gone twice.
const COMMITS: usize = 30_000;
/// Signatures that a thread takes at once.
const HANDFUL: usize = 16;

/// The time of the signature checks alone, on all cores, against that of the whole worker: socket,
/// decoding and rows, and at level `chain` the same signatures, hashes, proofs by the tree, inversion
/// and chain state.
pub(crate) fn whole(level: Verify) -> Round {
    let (bare, _) = check_signatures(&chains().signed);
    let (worker, _) = follow(level);
    Round {
        events: COMMITS as u64,
        bare,
        worker,
    }
}

/// What the signature checks take of the processor, against what the worker takes of it at level
/// `chain` beyond level `none`, at which it writes the same rows and believes everybody.
pub(crate) fn added() -> Round {
    let (_, bare) = check_signatures(&chains().signed);
    let (_, chain) = follow(Verify::Chain);
    let (_, none) = follow(Verify::None);
    Round {
        events: COMMITS as u64,
        bare,
        worker: chain.saturating_sub(none),
    }
}

fn chains() -> &'static Chains {
    static CHAINS: OnceLock<Chains> = OnceLock::new();
    CHAINS.get_or_init(|| Chains::new(COMMITS))
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
/// was looked up before: that happens once a day for each, not once a commit. And how much of the
/// processor that took, of the relay too.
fn follow(level: Verify) -> (Duration, Duration) {
    let chains = chains();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let upstream = Upstream::start(chains);
    runtime().block_on(async {
        database::create(&path).await;
        let config = service::config(&upstream.relay.url(), &path, |config| {
            config.verify = level;
            config.plc_url = upstream.directory.url().parse().unwrap();
            config.allow_private_addresses = true;
        });
        let tree = worker::start((&config).into(), None).await.unwrap();
        if level != Verify::None {
            look_up(&tree, chains).await;
        }
        service::until_connected(&tree).await;
        let (started, processor) = (Instant::now(), processor_time());
        upstream.relay.append(&chains.log);
        service::wait_for(&tree, chains.last_seq()).await;
        let taken = (started.elapsed(), processor_time() - processor);
        let metrics = tree.prometheus().render();
        tree.drain().await.unwrap();
        assert_kept(level, &metrics, &path).await;
        taken
    })
}

async fn look_up(tree: &RunningWorker, chains: &Chains) {
    let repositories = tree.context().repositories.as_ref().unwrap();
    let identities = &repositories.verification.identities;
    let answers = join_all(chains.dids.iter().map(|did| identities.get(did))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

/// A worker that has put a commit off, refused it or fetched its repository has done something else
/// than what is measured.
async fn assert_kept(level: Verify, metrics: &str, path: &Path) {
    let verified = match level {
        Verify::Chain => COMMITS,
        _ => 0,
    };
    for (name, count) in [
        ("huddle_verified_total{level=\"chain\"}", verified),
        ("huddle_key_unavailable_total", 0),
        ("huddle_redelivered_total", 0),
    ] {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let found = line.map_or("0", str::trim);
        assert_eq!(found, count.to_string(), "{name}");
    }
    for (rows, count) in [
        ("records", COMMITS),
        ("records WHERE verified = 'chain' AND deleted = 0", verified),
        (
            "repos WHERE state = 'synchronized'",
            verified.min(chains().dids.len()),
        ),
        ("repos WHERE has_parked", 0),
        ("repos WHERE recheck_cause IS NOT NULL", 0),
        ("dead_letters", 0),
        ("gaps", 0),
        ("resyncs", 0),
        ("parked_commits", 0),
    ] {
        assert_eq!(database::count(path, rows).await, count, "{rows}");
    }
}

/// How long it takes as many threads as there are cores to check `signed`, whose keys are read, and how
/// much of the processor.
fn check_signatures(signed: &[Signed]) -> (Duration, Duration) {
    let threads = std::thread::available_parallelism().unwrap().get();
    let handfuls: Vec<&[Signed]> = signed.chunks(HANDFUL).collect();
    let next = AtomicUsize::new(0);
    let (started, processor) = (Instant::now(), processor_time());
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
    (started.elapsed(), processor_time() - processor)
}

/// What this process has had of the processor so far. Linux counts it in hundredths of a second.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in brackets, may be anything.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let user_and_system = fields.split_whitespace().skip(11).take(2);
    let hundredths: u64 = user_and_system
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(hundredths * 10)
}
