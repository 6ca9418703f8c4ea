//! A seeded campaign of faults against the whole tree, with paused time.
//!
//! Each seed makes a schedule of one to five faults, at named points of any actor or in the store.
//! After each run the tables equal those that the script of events asks for, and at no commit did
//! the cursor lead. `HUDDLE_FAULT_SEEDS=17` runs one seed, `HUDDLE_FAULT_SEEDS=0..5000` many.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drain;
mod epochs;
mod model;
mod schedule;
mod script;
mod store;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::actors::{Context, Parts};
use huddle_firehose::config::{Config, Layers};
use huddle_firehose::fault::Faults;
use huddle_firehose::supervision::tree::Tree;
use huddle_firehose::worker;

use model::Model;
use schedule::Schedule;
use script::ScriptedSource;
use store::ModelStore;

/// How many seeds each of the four tests takes by default.
const SEEDS: u64 = 250;
/// In the tree's own, paused time.
const PATIENCE: Duration = Duration::from_secs(3600);

fn config(seed: u64) -> Config {
    let mut config = Layers::new().resolve().unwrap().config;
    let mut rng = fastrand::Rng::with_seed(seed);
    config.validation = "flag".parse().unwrap();
    config.decoders = rng.usize(1..4);
    config.batch_frames = rng.usize(1..40);
    config.index_batch = rng.usize(1..60);
    // Longer than it takes to find a stuck actor.
    config.drain_timeout = Duration::from_secs(300);
    config
}

async fn run(seed: u64, model: Arc<Model>) {
    let config = config(seed);
    let schedule = Arc::new(Schedule::seeded(seed));
    let store = Arc::new(ModelStore::new(model.clone(), schedule.clone()));
    let source = Arc::new(ScriptedSource::new(model.frames.clone(), seed));
    let rules = worker::rules(&config, source.as_ref()).unwrap();
    let context = Context::new(Parts {
        rules,
        config,
        source,
        store: store.clone(),
        listener: None,
        faults: Faults::planned(schedule.clone()),
    });
    let mut tree = Tree::start(context).await.unwrap();
    let last = model.last_seq();
    tokio::select! {
        error = tree.failed() => panic!("seed {seed}: {error}; {schedule:?}"),
        () = store.reaches(last) => {}
        () = tokio::time::sleep(PATIENCE) => {
            panic!("seed {seed}: stood still at {:?}; {schedule:?}", store.position());
        }
    }
    let drained = tree.drain().await;
    assert!(drained.is_ok(), "seed {seed}: {drained:?}; {schedule:?}");
    let differences = store.differences();
    assert!(
        differences.is_empty(),
        "seed {seed}: {differences:#?}; {schedule:?}"
    );
}

/// The seeds that the environment asks for, or else the given part of the default ones.
fn seeds(part: u64) -> Range<u64> {
    match std::env::var("HUDDLE_FAULT_SEEDS") {
        Err(_) => part * SEEDS..(part + 1) * SEEDS,
        Ok(text) => {
            let number = |text: &str| text.parse::<u64>().expect("HUDDLE_FAULT_SEEDS: a number");
            let all = match text.split_once("..") {
                Some((from, to)) => number(from)..number(to),
                None => number(&text)..number(&text) + 1,
            };
            let share = (all.end - all.start).div_ceil(4);
            let from = all.start + part * share;
            from.min(all.end)..(from + share).min(all.end)
        }
    }
}

fn campaign(part: u64) {
    // Every injected panic would print its stack.
    std::panic::set_hook(Box::new(|panic| {
        let is_injected = panic
            .payload()
            .downcast_ref::<String>()
            .is_some_and(|text| text.starts_with("injected"));
        if !is_injected {
            eprintln!("{panic}");
        }
    }));
    let model = Arc::new(Model::of_recording());
    for seed in seeds(part) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(seed, model.clone()));
    }
}

#[test]
fn nothing_is_lost_whatever_dies_first_quarter() {
    campaign(0);
}

#[test]
fn nothing_is_lost_whatever_dies_second_quarter() {
    campaign(1);
}

#[test]
fn nothing_is_lost_whatever_dies_third_quarter() {
    campaign(2);
}

#[test]
fn nothing_is_lost_whatever_dies_last_quarter() {
    campaign(3);
}
