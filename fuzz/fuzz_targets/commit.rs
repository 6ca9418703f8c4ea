#![no_main]

use huddle_firehose_fuzz::commit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| commit::check(input));
