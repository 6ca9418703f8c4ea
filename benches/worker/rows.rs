//! The measured rows.

use std::path::Path;
use std::sync::OnceLock;

use huddle_firehose::config::{Config, Verify};

use crate::replay::Replay;
use crate::round::Round;
use crate::{
    bare, cold, commits, database, follower, frames, runtime, sink_nats, sink_postgres, verified,
    whole_network,
};

/// Events of an unmatched round.
const UNMATCHED: u64 = 1_500_000;
/// Commits of a round in which nearly all are kept.
const MATCHED: usize = 10_000;

type Measure = fn() -> Round;

pub(crate) const ROWS: &[(&str, Measure)] = &[
    ("unmatched", || unmatched(|_| {})),
    ("unmatched, 1 decoder", || {
        unmatched(|config| config.decoders = 1)
    }),
    ("unmatched, 4 decoders", || {
        unmatched(|config| config.decoders = 4)
    }),
    ("unmatched, 10 patterns", || {
        unmatched(|config| add_patterns(config, 9))
    }),
    ("unmatched, 100 patterns", || {
        unmatched(|config| add_patterns(config, 99))
    }),
    ("unmatched, 10 thousand repos", || {
        unmatched_beside(10_000, |_| {})
    }),
    ("unmatched, 1 million repos", || {
        unmatched_beside(1_000_000, |_| {})
    }),
    ("unmatched, chain", || unmatched(follow_chains)),
    ("unmatched, chain, 10 thousand repos", || {
        unmatched_beside(10_000, follow_chains)
    }),
    ("unmatched, chain, 1 million repos", || {
        unmatched_beside(1_000_000, follow_chains)
    }),
    ("matched 1 %", || matched(MATCHED / 5, 99)),
    ("matched 10 %", || matched(MATCHED, 9)),
    ("matched 100 %", || matched(MATCHED, 0)),
    ("verified", || verified::measure(Verify::Chain)),
    ("verified, at level none", || {
        verified::measure(Verify::None)
    }),
    ("cold", cold::measure),
    ("whole network", whole_network::measure),
    ("sink postgres", sink_postgres::measure),
    ("sink nats", sink_nats::measure),
];

/// Compared with a client that discards everything.
fn unmatched(change: impl FnOnce(&mut Config)) -> Round {
    let folder = tempfile::tempdir().unwrap();
    unmatched_on(&folder.path().join("worker.db"), change)
}

/// The same with a database that holds `repos` repositories and as many records.
fn unmatched_beside(repos: u64, change: impl FnOnce(&mut Config)) -> Round {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    runtime().block_on(database::fill(&path, repos));
    unmatched_on(&path, change)
}

fn unmatched_on(path: &Path, change: impl FnOnce(&mut Config)) -> Round {
    let replay = Replay::start_held(&frames::unmatched(), UNMATCHED);
    replay.release();
    let bare = runtime().block_on(bare::read(replay.url.clone(), replay.count));
    let worker = follower::follow(&replay, path, &[], |config| {
        config.collections = vec!["org.example.nothing".parse().unwrap()];
        change(config);
    });
    Round {
        events: replay.count,
        bare: Some(bare),
        worker,
    }
}

/// The default of the service. No keys are looked up, because no commit is wanted.
fn follow_chains(config: &mut Config) {
    config.verify = Verify::Chain;
    config.plc_url = "http://127.0.0.1:1".parse().unwrap();
}

fn add_patterns(config: &mut Config, count: usize) {
    let pattern = |number| format!("org.example.p{number}.*").parse().unwrap();
    config.collections.extend((0..count).map(pattern));
}

/// Compared with a client that discards everything while a bare loop writes the resulting rows.
fn matched(count: usize, others: usize) -> Round {
    static COMMITS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let commits = COMMITS.get_or_init(|| commits::matched(MATCHED))[..count].to_vec();
    let frames = frames::mixed(commits, others);
    let replay = Replay::start_held(&frames, frames.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let worker = follower::follow(&replay, &path, &[], |_| {});
    let bare = runtime().block_on(async {
        let rows = database::read(&path).await;
        replay.release();
        let reading = tokio::spawn(bare::read(replay.url.clone(), replay.count));
        let writing = database::write(&folder.path().join("bare.db"), &rows).await;
        writing.max(reading.await.unwrap())
    });
    Round {
        events: replay.count,
        bare: Some(bare),
        worker,
    }
}
