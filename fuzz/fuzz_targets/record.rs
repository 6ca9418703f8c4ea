#![no_main]

use huddle_firehose_fuzz::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| record::check(input));
