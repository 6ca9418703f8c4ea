#![no_main]

use test_support::fuzz_checks::cursor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| cursor::check(input));
