#![no_main]

use test_support::fuzz_checks::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| record::check(input));
