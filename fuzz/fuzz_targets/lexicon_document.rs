#![no_main]

use test_support::fuzz_checks::lexicon_document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| lexicon_document::check(input));
