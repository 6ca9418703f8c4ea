//! An untrusted lexicon document, and records validated with it.

use std::sync::LazyLock;

use huddle_firehose::lexicon::{SchemaError, Schemas, Validation};
use serde_json::{Value, json};

const CID: &str = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq";

/// Values of every type, under names that a document may use.
static RECORDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let leaves = json!({
        "a": "text 👩\u{200d}👩\u{200d}👦", "b": 7, "c": true, "d": null, "e": "2026-07-04T14:38:07Z",
        "f": { "$link": CID }, "g": { "$bytes": "AQIDBA" }, "h": i64::MIN, "i": u64::MAX, "j": "",
        "k": { "$type": "blob", "ref": { "$link": CID }, "mimeType": "image/png", "size": 9 },
        "l": { "cid": CID, "mimeType": "image/png" }, "m": "at://did:plc:ann/com.x.y/z",
    });
    let items: Vec<Value> = leaves
        .as_object()
        .into_iter()
        .flat_map(|map| map.values().cloned())
        .collect();
    let mut deep = json!({ "a": "the end" });
    for _ in 0..100 {
        deep = json!({ "$type": "com.example.a#a", "a": deep, "b": [deep["b"]] });
    }
    let mut lists = json!([]);
    for _ in 0..100 {
        lists = json!([lists]);
    }
    vec![
        json!({}),
        leaves.clone(),
        json!({ "a": leaves, "b": items }),
        deep,
        json!({ "a": lists }),
    ]
});

pub fn check(input: &[u8]) {
    let Ok(document) = std::str::from_utf8(input) else {
        return;
    };
    let schemas = match Schemas::load([document]) {
        Ok(schemas) => schemas,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let json: Value = serde_json::from_str(document).expect("a document is JSON");
    let id = json["id"].as_str().expect("a document has an id");
    let is_record = json["defs"]["main"]["type"] == "record";
    for record in &*RECORDS {
        let mut record = record.clone();
        assert!(
            !is_record || schemas.validate(id, &record) != Validation::Valid,
            "it has no $type"
        );
        record["$type"] = id.into();
        let validation = schemas.validate(id, &record);
        assert_eq!(validation == Validation::NoSchema, !is_record);
        if let Validation::Invalid(error) = validation {
            assert!(!error.reason.is_empty());
        }
    }
    if json["defs"]
        .as_object()
        .is_some_and(|defs| !defs.is_empty())
    {
        let twice = Schemas::load([document, document]);
        assert!(matches!(twice, Err(SchemaError::Duplicate(_))));
    }
}
