//! Tests the string formats with the protocol's own vectors.

use huddle_firehose::lexicon::format::Format;
use test_support::shared_data::shared_data;

/// The lines of `file` that are cases. `None` if the vectors are missing.
fn cases(file: &str) -> Option<Vec<String>> {
    let path = shared_data(&format!("interop/syntax/{file}.txt"))?;
    let text = std::fs::read_to_string(path).unwrap();
    let cases: Vec<String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    assert!(!cases.is_empty(), "{file} holds no case");
    Some(cases)
}

fn check(format: Format, file: &str, accepted: bool) {
    for case in cases(file).into_iter().flatten() {
        assert_eq!(format.accepts(&case), accepted, "{file}: {case:?}");
    }
}

macro_rules! vectors {
    ($($test:ident: $format:ident, $file:literal, $accepted:literal;)*) => {
        $(
            #[test]
            fn $test() {
                check(Format::$format, $file, $accepted);
            }
        )*
    };
}

vectors! {
    valid_at_identifiers_are_accepted: AtIdentifier, "atidentifier_syntax_valid", true;
    invalid_at_identifiers_are_refused: AtIdentifier, "atidentifier_syntax_invalid", false;
    valid_at_uris_are_accepted: AtUri, "aturi_syntax_valid", true;
    invalid_at_uris_are_refused: AtUri, "aturi_syntax_invalid", false;
    valid_cids_are_accepted: Cid, "cid_syntax_valid", true;
    invalid_cids_are_refused: Cid, "cid_syntax_invalid", false;
    valid_datetimes_are_accepted: Datetime, "datetime_syntax_valid", true;
    invalid_datetimes_are_refused: Datetime, "datetime_syntax_invalid", false;
    datetimes_that_no_calendar_knows_are_refused: Datetime, "datetime_parse_invalid", false;
    valid_handles_are_accepted: Handle, "handle_syntax_valid", true;
    invalid_handles_are_refused: Handle, "handle_syntax_invalid", false;
    valid_languages_are_accepted: Language, "language_syntax_valid", true;
    invalid_languages_are_refused: Language, "language_syntax_invalid", false;
    languages_that_repeat_themselves_are_refused: Language, "language_parse_invalid", false;
    valid_uris_are_accepted: Uri, "uri_syntax_valid", true;
    invalid_uris_are_refused: Uri, "uri_syntax_invalid", false;
}
