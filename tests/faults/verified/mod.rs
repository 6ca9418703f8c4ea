//! A second campaign: the tree at level `chain`, with the tables in a SQLite file, and a network that
//! answers for its accounts, most of the time.
//!
//! Faults strike those who see to repositories as well, and calls that come from them to the tables. After
//! each run what is visible in the tables is what the network holds now, whatever was missed or refused on
//! the way; nothing waits and no gap is open. At no commit did the cursor lead: what was said up to it is
//! in the tables, or there is a word in them that it is still to come. `HUDDLE_VERIFIED_FAULT_SEEDS=17`
//! runs one seed, `HUDDLE_VERIFIED_FAULT_SEEDS=0..500` many.

mod audit;
mod hosts;
mod run;
mod store;
mod traffic;

use std::ops::Range;

/// How many seeds each of the two tests takes by default.
const SEEDS: u64 = 8;

fn seeds(part: u64) -> Range<u64> {
    crate::asked_for("HUDDLE_VERIFIED_FAULT_SEEDS", part, 2)
        .unwrap_or(part * SEEDS..(part + 1) * SEEDS)
}

fn campaign(part: u64) {
    crate::hush_injected_panics();
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
