//! A second campaign: the tree at level `chain`, with the tables in a SQLite file. The network
//! answers requests about its accounts most of the time. Holds invariants 1, 2, 3, 6, 7 and 9.
//!
//! Faults also strike the RepositoriesActor, the BackfillActor, and their calls to the tables.
//! After each run the visible records equal the network's present state, also if events were missed
//! or refused; no job is due and no gap is open. At no commit does the cursor lead: everything up
//! to it is in the tables, or they say that it is missing. `HUDDLE_VERIFIED_FAULT_SEEDS=17` runs
//! one seed, `HUDDLE_VERIFIED_FAULT_SEEDS=0..500` many.

mod audit;
mod hosts;
mod run;
mod store;
mod traffic;

use std::ops::Range;

/// How many seeds each of the two tests runs by default.
const SEEDS: u64 = 8;

/// Schedules that once lost something, with what lost it.
const LOST_ONCE: [u64; 6] = [
    // An account was inactive while the discovery passed it, and returned later.
    700_018,
    // A takedown ended in a gap that was over before the repository was found.
    9_300_298,
    // Repositories were searched for and fetched before the stream had begun.
    9_301_489,
    9_302_218,
    9_303_001,
    // A gap whose end the process did not live to see stayed open, and hid that repositories differ.
    157_546_588,
];

fn seeds(part: u64) -> Range<u64> {
    crate::asked_for("HUDDLE_VERIFIED_FAULT_SEEDS", part, 2)
        .unwrap_or(part * SEEDS..(part + 1) * SEEDS)
}

fn campaign(part: u64) {
    crate::silence_injected_panics();
    for seed in seeds(part) {
        run::run(seed);
    }
}

#[test]
fn what_is_verified_is_whole_in_the_end_whatever_dies_first_half() {
    campaign(0);
}

#[test]
fn what_is_verified_is_whole_in_the_end_whatever_dies_second_half() {
    campaign(1);
}

#[test]
fn what_was_lost_once_is_whole_now() {
    crate::silence_injected_panics();
    LOST_ONCE.into_iter().for_each(run::run);
}
