//! Tests identifiers and datetimes with the protocol's own vectors.

use huddle_firehose::atproto::datetime::parse_datetime;
use huddle_firehose::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use test_support::shared_data::shared_data;

/// The lines of a vector file. Spaces at their ends are part of the case.
fn lines(file: &str) -> Vec<String> {
    let Some(path) = shared_data(&format!("interop/syntax/{file}")) else {
        return Vec::new();
    };
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn holds_to_vectors(name: &str, is_valid: impl Fn(&str) -> bool) {
    for text in lines(&format!("{name}_syntax_valid.txt")) {
        assert!(is_valid(&text), "valid {name}: {text:?}");
    }
    for text in lines(&format!("{name}_syntax_invalid.txt")) {
        assert!(!is_valid(&text), "invalid {name}: {text:?}");
    }
}

#[test]
fn dids_hold_to_the_vectors() {
    holds_to_vectors("did", |text| Did::parse(text).is_ok());
}

#[test]
fn nsids_hold_to_the_vectors() {
    holds_to_vectors("nsid", |text| Nsid::parse(text).is_ok());
}

#[test]
fn record_keys_hold_to_the_vectors() {
    holds_to_vectors("recordkey", |text| RecordKey::parse(text).is_ok());
}

#[test]
fn tids_hold_to_the_vectors() {
    holds_to_vectors("tid", |text| Tid::parse(text).is_ok());
}

#[test]
fn datetimes_hold_to_the_vectors() {
    holds_to_vectors("datetime", |text| parse_datetime(text).is_ok());
    for text in lines("datetime_parse_invalid.txt") {
        assert!(
            parse_datetime(&text).is_err(),
            "impossible datetime: {text:?}"
        );
    }
}
