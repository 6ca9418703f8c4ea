#![no_main]

use test_support::fuzz_checks::commit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| commit::check(input));
