#![no_main]

use huddle_firehose_fuzz::cursor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| cursor::check(input));
