//! Replays the committed corpus of the fuzz targets through the same checks, with the service's own
//! toolchain. A fuzzer's find stays in the corpus, so a regression fails here without fuzzing.
//! Holds invariant 5.5.

use std::fs;
use std::path::Path;

macro_rules! targets {
    ($($target:ident)*) => {
        const TARGETS: &[&str] = &[$(stringify!($target)),*];

        mod the_corpus_passes_the_check_of {
            $(
                #[test]
                fn $target() {
                    super::replay(stringify!($target), test_support::fuzz_checks::$target::check);
                }
            )*
        }
    };
}

targets!(car commit configuration cursor frame lexicon_document mst_node record skim);

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn replay(target: &str, check: fn(&[u8])) {
    let mut inputs = 0;
    for entry in fs::read_dir(corpus().join(target)).unwrap() {
        let path = entry.unwrap().path();
        // Printed if the check fails.
        println!("{}", path.display());
        check(&fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{target} has no corpus");
}

#[test]
fn every_target_is_replayed() {
    for folder in [corpus(), corpus().with_file_name("fuzz_targets")] {
        let mut found: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.trim_end_matches(".rs").to_owned())
            .collect();
        found.sort_unstable();
        assert_eq!(found, TARGETS);
    }
}
