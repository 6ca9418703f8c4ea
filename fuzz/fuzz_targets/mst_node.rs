#![no_main]

use huddle_firehose_fuzz::mst_node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| mst_node::check(input));
