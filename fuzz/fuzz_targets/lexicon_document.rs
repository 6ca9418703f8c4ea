#![no_main]

use huddle_firehose_fuzz::lexicon_document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| lexicon_document::check(input));
