#![no_main]

use huddle_firehose_fuzz::car;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| car::check(input));
