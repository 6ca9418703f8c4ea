#![no_main]

use huddle_firehose_fuzz::frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| frame::check(input));
