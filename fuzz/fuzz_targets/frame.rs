#![no_main]

use test_support::fuzz_checks::frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| frame::check(input));
