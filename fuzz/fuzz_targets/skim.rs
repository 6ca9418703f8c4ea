#![no_main]

use test_support::fuzz_checks::skim;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| skim::check(input));
