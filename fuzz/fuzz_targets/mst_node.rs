#![no_main]

use test_support::fuzz_checks::mst_node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| mst_node::check(input));
