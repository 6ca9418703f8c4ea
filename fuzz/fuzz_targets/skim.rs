#![no_main]

use huddle_firehose_fuzz::skim;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| skim::check(input));
