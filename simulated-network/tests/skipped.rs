//! Lists the skipped tests of a run. Its name makes it the last test target of `cargo test`.

#[path = "../../test-support/src/skipped.rs"]
mod skipped;

#[test]
fn the_skipped_tests_of_the_run_are_listed() {
    skipped::list();
}

#[test]
fn a_skipped_test_is_noted_with_its_name_and_reason_until_it_is_listed() {
    let notes = std::env::temp_dir().join(format!("huddle-skipped-test-{}", std::process::id()));
    for reason in ["x is missing", "y:\nno"] {
        skipped::note(&notes, &skipped::line(reason));
    }
    let name = "a_skipped_test_is_noted_with_its_name_and_reason_until_it_is_listed";
    let noted = format!("SKIPPED: {name}: x is missing\nSKIPPED: {name}: y: no\n");
    assert_eq!(skipped::take(&notes), noted);
    assert_eq!(skipped::take(&notes), "");
}
