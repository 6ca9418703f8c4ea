//! A recording of a server's stream, with the log of its PLC directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

/// The DID documents that the operations in the file at `path` lead to, one operation a line, as
/// `/export` of the PLC directory gives them. For each account the last operation counts that was
/// not nullified.
pub(crate) fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut operations: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let of_account = operations.entry(text_of(&line, "did")).or_default();
        match line.get("nullify") {
            // The testbed's own line: an earlier operation of the account was nullified.
            Some(cid) => of_account.retain(|operation| operation["cid"] != *cid),
            None if line["nullified"] == true => {}
            None => of_account.push(line),
        }
    }
    let last = operations
        .iter()
        .filter_map(|(did, operations)| document(did, &operations.last()?["operation"]));
    last.collect()
}

/// `None` for an account whose last operation is a tombstone.
fn document(did: &str, operation: &Value) -> Option<Value> {
    let (key, host, names) = match operation["type"].as_str()? {
        "plc_operation" => (
            &operation["verificationMethods"]["atproto"],
            &operation["services"]["atproto_pds"]["endpoint"],
            operation["alsoKnownAs"].clone(),
        ),
        "create" => (
            &operation["signingKey"],
            &operation["service"],
            json!([format!("at://{}", text_of(operation, "handle"))]),
        ),
        _ => return None,
    };
    Some(json!({
        "id": did,
        "alsoKnownAs": names,
        "verificationMethod": [{
            "id": format!("{did}#atproto"),
            "type": "Multikey",
            "controller": did,
            "publicKeyMultibase": key.as_str()?.strip_prefix("did:key:")?,
        }],
        "service": [{
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": host,
        }],
    }))
}

fn text_of(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap().to_owned()
}
