//! Tests lexicon documents and records with the protocol's own vectors, and with the records that
//! the reference server accepted.

use std::path::Path;

use huddle_firehose::huddle;
use huddle_firehose::lexicon::{Schemas, Validation};
use serde_json::Value;
use test_support::shared_data::{shared_data, shared_recording};

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn documents_in(folder: &Path) -> Vec<String> {
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        documents.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    documents
}

#[test]
fn valid_documents_are_read_and_invalid_ones_refused() {
    let Some(folder) = shared_data("interop/lexicon") else {
        return;
    };
    for (file, is_valid) in [
        ("lexicon-valid.json", true),
        ("lexicon-invalid.json", false),
    ] {
        for case in read(&folder.join(file)).as_array().unwrap() {
            let schemas = Schemas::load([case["lexicon"].to_string().as_str()]);

            assert_eq!(schemas.is_ok(), is_valid, "{}: {schemas:?}", case["name"]);
        }
    }
}

#[test]
fn records_are_valid_or_not_as_the_vectors_say() {
    let Some(folder) = shared_data("interop/lexicon") else {
        return;
    };
    let catalog = documents_in(&folder.join("catalog"));
    let schemas = Schemas::load(catalog.iter().map(String::as_str)).unwrap();

    for (file, is_valid) in [
        ("record-data-valid.json", true),
        ("record-data-invalid.json", false),
    ] {
        for case in read(&folder.join(file)).as_array().unwrap() {
            let verdict = schemas.validate("example.lexicon.record", &case["data"]);

            assert_eq!(
                verdict == Validation::Valid,
                is_valid,
                "{}: {verdict:?}",
                case["name"]
            );
        }
    }
}

#[test]
fn schemas_of_the_community_are_read() {
    let Some(folder) = shared_data("lexicons") else {
        return;
    };
    let documents = documents_in(&folder);

    Schemas::load(documents.iter().map(String::as_str)).unwrap();
}

#[test]
fn exactly_the_malformed_records_of_the_reference_server_are_refused() {
    let Some(path) = shared_recording("small-oracle.json") else {
        return;
    };
    let schemas = Schemas::embedded().unwrap();
    let oracle = read(&path);

    for entry in oracle["records"].as_array().unwrap() {
        let uri = entry["uri"].as_str().unwrap();
        let mut path = uri.strip_prefix("at://").unwrap().split('/').skip(1);
        let (collection, rkey) = (path.next().unwrap(), path.next().unwrap());

        let verdict = schemas.validate(collection, &entry["value"]);
        let row = huddle::project(collection, &entry["value"]);

        let is_kept = verdict == Validation::Valid && matches!(row, Ok(Some(_)));
        assert_eq!(
            is_kept,
            !rkey.starts_with("bad-"),
            "{uri}: {verdict:?}, {row:?}"
        );
    }
    for entry in oracle["nearMissRecords"].as_array().unwrap() {
        let collection = entry["value"]["$type"].as_str().unwrap();

        assert_eq!(
            schemas.validate(collection, &entry["value"]),
            Validation::NoSchema
        );
    }
}
