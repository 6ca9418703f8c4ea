//! Compares the worker at level `chain` with the same checks of signatures and the same rows, bare.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use huddle_firehose::config::Verify;
use simulated_network::record::WANTED;
use tokio::time::Instant;

use crate::database::Batch;
use crate::directory::Directory;
use crate::replay::Replay;
use crate::round::Round;
use crate::traffic::{Action, Plan, Signed, Traffic};
use crate::{database, follower, kept, runtime, service};

/// Each commit is sent once, because a chain cannot be repeated.
const PLAN: Plan = Plan {
    accounts: 500,
    commits: 30_000,
    history: 100,
    action: |random| Action::Create(WANTED[random.usize(..WANTED.len())]),
};
/// Signatures that a thread takes at once.
const HANDFUL: usize = 16;

struct Input {
    traffic: Traffic,
    signed: Vec<Signed>,
}

/// The bare limit checks the signatures on all cores while a plain sqlx loop writes the rows that
/// the worker has written. The worker has the socket, the decoding and the rows too, and at level
/// `chain` also the hashes, proofs, inversion and chain state.
pub(crate) fn measure(level: Verify) -> Round {
    let input = input();
    let directory = Directory::start(&input.traffic.documents);
    let replay = Replay::start_held(&input.traffic.frames, PLAN.commits as u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let worker = follower::follow(&replay, &path, &input.traffic.dids(), |config| {
        service::verify(config, &directory);
        config.verify = level;
    });
    assert_kept(level, &path);
    let rows = runtime().block_on(database::read(&path));
    Round {
        events: replay.count,
        bare: Some(bare(&input.signed, &folder.path().join("bare.db"), &rows)),
        worker,
    }
}

fn input() -> &'static Input {
    static INPUT: OnceLock<Input> = OnceLock::new();
    INPUT.get_or_init(|| {
        let traffic = Traffic::new(&PLAN);
        Input {
            signed: traffic.signed(),
            traffic,
        }
    })
}

/// Checks that every commit made its row, and was proven at level `chain`.
fn assert_kept(level: Verify, path: &Path) {
    let verified = match level {
        Verify::Chain => PLAN.commits,
        _ => 0,
    };
    kept::assert_metrics(&follower::metrics(path), verified);
    kept::assert_no_doubts(path);
    kept::assert_rows(
        path,
        &[
            ("records", PLAN.commits),
            ("records WHERE verified = 'chain' AND deleted = 0", verified),
            (
                "repos WHERE state = 'synchronized'",
                verified.min(PLAN.accounts),
            ),
        ],
    );
}

/// The time until all signatures are checked and all rows are written, side by side.
fn bare(signed: &[Signed], path: &Path, rows: &[Batch]) -> Duration {
    let threads = std::thread::available_parallelism().unwrap().get();
    let handfuls: Vec<&[Signed]> = signed.chunks(HANDFUL).collect();
    let next = AtomicUsize::new(0);
    runtime().block_on(database::create(path));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| check(&handfuls, &next));
        }
        runtime().block_on(database::write(path, rows));
    });
    started.elapsed()
}

fn check(handfuls: &[&[Signed]], next: &AtomicUsize) {
    while let Some(handful) = handfuls.get(next.fetch_add(1, Ordering::Relaxed)) {
        for (commit, key) in *handful {
            commit.verify(key).unwrap();
        }
    }
}
