//! Compares the full verification of commits (signatures, proofs, chains) with checking their
//! signatures alone.

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
use crate::round::Round;
use crate::{database, runtime, service};

/// Commits of a round. Each is sent once, because a chain cannot be repeated.
const COMMITS: usize = 30_000;
/// Signatures that a thread takes at once.
const HANDFUL: usize = 16;

/// The time of the signature checks alone, on all cores, compared with that of the whole worker:
/// socket, decoding and rows, and at level `chain` also the signatures, hashes, proofs, inversion
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

/// The processor time of the signature checks, compared with the additional processor time of the
/// worker at level `chain`. The baseline is level `none`, which writes the same rows without
/// verification.
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

/// A relay and a PLC directory, on their own thread.
struct Upstream {
    relay: Relay,
    plc: HttpServer,
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
        let (relay, plc) = runtime.block_on(async {
            let relay = Relay::start(Options::default()).await.unwrap();
            let plc = HttpServer::start(chains.network.clone()).await.unwrap();
            (relay, plc)
        });
        Self {
            relay,
            plc,
            _runtime: runtime,
        }
    }
}

/// The time from the first commit until the cursor is behind the last one, and the processor time
/// of it, including that of the relay. Every account is looked up before, because in production
/// this happens once a day for each account and not once for each commit.
fn follow(level: Verify) -> (Duration, Duration) {
    let chains = chains();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let upstream = Upstream::start(chains);
    runtime().block_on(async {
        database::create(&path).await;
        let config = service::config(&upstream.relay.url(), &path, |config| {
            config.verify = level;
            config.plc_url = upstream.plc.url().parse().unwrap();
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

/// Checks that no commit was parked, refused or caused a fetch, because the worker would then have
/// done other work than the measured one.
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

/// The time to check `signed` with one thread for each core, and the processor time of it. The keys
/// are parsed before.
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

/// The processor time of this process so far. Linux counts it in hundredths of a second.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may contain any characters.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let user_and_system = fields.split_whitespace().skip(11).take(2);
    let hundredths: u64 = user_and_system
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(hundredths * 10)
}
