//! A seeded campaign of faults against the whole tree, with paused time.
//!
//! Each seed makes a schedule of one to five faults, at named points of any actor or in the store;
//! some kill actors from outside as well, some end the process amid the traffic, and another one
//! goes on with the same store. The tree follows a simulated network, whose relay is hostile now and
//! then, forgets, or begins anew. After each run the tables, the dead letters and the gaps are those
//! that the network's oracle asks for, and at no commit did the cursor lead. `HUDDLE_FAULT_SEEDS=17`
//! runs one seed, `HUDDLE_FAULT_SEEDS=0..5000` many.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod audit;
mod drain;
mod epochs;
mod history;
mod run;
mod schedule;
mod store;
mod tables;
mod traffic;
mod upstream;
mod verified;

use std::ops::Range;
use std::sync::Arc;

use history::History;

/// How many seeds each of the four tests takes by default.
const SEEDS: u64 = 500;
/// So many runs follow the same history, since most of a history's time goes into signatures.
const RUNS_OF_A_HISTORY: u64 = 8;

/// The seeds that the environment asks for in `variable`: one of so many parts of them.
fn asked_for(variable: &str, part: u64, parts: u64) -> Option<Range<u64>> {
    let text = std::env::var(variable).ok()?;
    let number = |text: &str| text.parse::<u64>().expect("seeds are numbers");
    let all = match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    };
    let share = (all.end - all.start).div_ceil(parts);
    let from = all.start + part * share;
    Some(from.min(all.end)..(from + share).min(all.end))
}

fn seeds(part: u64) -> Range<u64> {
    asked_for("HUDDLE_FAULT_SEEDS", part, 4).unwrap_or(part * SEEDS..(part + 1) * SEEDS)
}

/// Every injected panic would print its stack.
fn hush_injected_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let is_injected = panic
            .payload()
            .downcast_ref::<String>()
            .is_some_and(|text| text.starts_with("injected"));
        if !is_injected {
            eprintln!("{panic}");
        }
    }));
}

fn campaign(part: u64) {
    hush_injected_panics();
    let mut history = None;
    for seed in seeds(part) {
        let number = seed / RUNS_OF_A_HISTORY;
        let (_, history) = match history.take() {
            Some((known, same)) if known == number => history.insert((number, same)),
            _ => history.insert((number, Arc::new(History::seeded(number)))),
        };
        run::run(seed, history);
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
