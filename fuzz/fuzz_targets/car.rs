#![no_main]

use test_support::fuzz_checks::car;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| car::check(input));
