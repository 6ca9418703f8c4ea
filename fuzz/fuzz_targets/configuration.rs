#![no_main]

use huddle_firehose_fuzz::configuration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| configuration::check(input));
