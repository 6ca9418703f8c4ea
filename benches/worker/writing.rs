//! What accounts write, before they sign it.
//!
//! The records and the tree of a repository do not depend on its account. So a few repositories are
//! written once, and many accounts sign the same trees, each with its own key. It makes the commits
//! of 20,000 repositories of production's depth in seconds.

use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use jiff::Timestamp;
use simulated_network::car::{Blocks, read_car};
use simulated_network::key::SigningKey;
use simulated_network::record;
use simulated_network::repo::{CommitFrame, Repository, Write};
use simulated_network::tid::tid;

use crate::traffic::{Action, Plan};

/// 2026-02-01T00:00:00Z, in microseconds. The first commit of a plan.
pub(crate) const BEGINNING: u64 = 1_769_904_000_000_000;
/// The time between two commits of a repository here, in microseconds.
const TURN: u64 = 60_000_000;
/// The records of the history come from the two years before, in microseconds.
const HISTORY: u64 = 2 * 365 * 24 * 3_600_000_000;
/// The older collections of a repository, in about the proportions of the network.
const OLDER: [&str; 8] = [
    "app.bsky.feed.like",
    "app.bsky.feed.like",
    "app.bsky.feed.like",
    "app.bsky.feed.like",
    "app.bsky.feed.like",
    "app.bsky.feed.post",
    "app.bsky.feed.repost",
    "app.bsky.graph.follow",
];

/// A commit without its signed block.
pub(crate) struct Unsigned {
    pub(crate) frame: CommitFrame,
    pub(crate) blocks: Blocks,
}

/// `count` repositories with `length` commits each.
pub(crate) fn repositories(plan: &Plan, count: usize, length: usize) -> Vec<Vec<Unsigned>> {
    in_parallel(count, |number| commits(plan, number as u64, length))
}

fn commits(plan: &Plan, seed: u64, length: usize) -> Vec<Unsigned> {
    let mut random = Rng::with_seed(seed);
    let mut repo = Repository::new("did:plc:unsigned", SigningKey::generate(&mut random));
    if plan.history > 0 {
        let older = (0..plan.history).map(|_| older(&mut random)).collect();
        let _unsent = repo.apply(older, tid(BEGINNING - TURN, 0));
    }
    let turns = (0..length as u64).map(|turn| BEGINNING + turn * TURN);
    turns
        .map(|clock| {
            let write = match (plan.action)(&mut random) {
                Action::Create(collection) => create(collection, clock, &mut random),
                Action::Delete => delete(&repo, &mut random),
            };
            unsigned(repo.apply(vec![write], tid(clock, 0)))
        })
        .collect()
}

fn unsigned(frame: CommitFrame) -> Unsigned {
    let (root, mut blocks) = read_car(&frame.blocks).unwrap();
    blocks.remove(&root);
    Unsigned { frame, blocks }
}

fn older(random: &mut Rng) -> Write {
    let collection = OLDER[random.usize(..OLDER.len())];
    let clock = BEGINNING - 2 * TURN - random.u64(..HISTORY);
    create(collection, clock, random)
}

fn create(collection: &str, clock: u64, random: &mut Rng) -> Write {
    let path = format!("{collection}/{}", tid(clock, 0));
    let record = record::record(&path, time_of(clock), &[], random);
    Write {
        value: Some(record::to_ipld(&record)),
        path,
    }
}

/// # Panics
/// If the repository has no record.
fn delete(repo: &Repository, random: &mut Rng) -> Write {
    let paths: Vec<&str> = repo.paths().collect();
    Write {
        path: (*random.choice(&paths).unwrap()).to_owned(),
        value: None,
    }
}

pub(crate) fn time_of(clock: u64) -> Timestamp {
    Timestamp::from_microsecond(clock as i64).unwrap()
}

/// The results of `make` for each number below `count`, in this order, made on all cores.
pub(crate) fn in_parallel<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().unwrap().get();
    let next = AtomicUsize::new(0);
    let work = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let own = numbers.take_while(|number| *number < count);
        own.map(|number| (number, make(number))).collect::<Vec<_>>()
    };
    let mut made: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let made = threads.into_iter().map(|thread| thread.join().unwrap());
        made.flatten().collect()
    });
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, made)| made).collect()
}
