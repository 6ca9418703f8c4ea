//! Lines of a PLC directory's `/export`: one operation each, in the order in which the directory took
//! them. Spec: <https://web.plc.directory/spec/v0.1/did-plc>.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::document::{self, Identity};
use crate::atproto::syntax::{Did, SyntaxError};

/// An operation, as far as the identity of its account is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportLine {
    pub did: Did,
    /// A later operation has replaced it. It says nothing about its account.
    pub is_nullified: bool,
    /// The directory's number of it. A directory of an earlier version has none.
    pub seq: Option<u64>,
    pub created_at: Timestamp,
    /// The account's identity from then on. `None` if it has none: the account is tombstoned, or has
    /// no key that signs commits, or the operation is of a kind that is not known here.
    pub identity: Option<Identity>,
}

/// A line that is no operation.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0}")]
    Did(#[from] SyntaxError),
    /// The text is the parser's message.
    #[error("not an operation of a directory's export: {0}")]
    Json(#[from] serde_json::Error),
    #[error("createdAt is not a datetime: {0}")]
    Time(#[from] jiff::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    did: String,
    operation: Value,
    #[serde(default)]
    nullified: bool,
    created_at: String,
    #[serde(default)]
    seq: Option<u64>,
}

impl ExportLine {
    /// Parses a line.
    ///
    /// # Errors
    /// If it is not an operation with its DID and its time.
    pub fn parse(line: &str) -> Result<Self, ExportError> {
        let line: Line = serde_json::from_str(line)?;
        let did = Did::parse(&line.did)?;
        Ok(Self {
            identity: identity(&did, &line.operation),
            did,
            is_nullified: line.nullified,
            seq: line.seq,
            created_at: line.created_at.parse()?,
        })
    }
}

fn identity(did: &Did, operation: &Value) -> Option<Identity> {
    match operation["type"].as_str()? {
        "plc_operation" => of_operation(did, operation),
        "create" => of_legacy_create(did, operation),
        _ => None,
    }
}

fn of_operation(did: &Did, operation: &Value) -> Option<Identity> {
    let key = signing_key(&operation["verificationMethods"]["atproto"])?;
    let service = &operation["services"]["atproto_pds"];
    let endpoint = service["endpoint"].as_str();
    Some(Identity {
        pds: endpoint.and_then(|endpoint| document::pds(&service["type"], endpoint)),
        handle: document::handle(&operation["alsoKnownAs"]),
        ..Identity::new(did.clone(), key)
    })
}

/// The first form of an operation. It may name its host without a scheme.
fn of_legacy_create(did: &Did, operation: &Value) -> Option<Identity> {
    let key = signing_key(&operation["signingKey"])?;
    let pds = operation["service"].as_str().and_then(legacy_pds);
    let handle = operation["handle"].as_str().unwrap_or_default();
    let handle = handle.strip_prefix("at://").unwrap_or(handle);
    Some(Identity {
        pds,
        handle: document::handle(&Value::from(vec![format!("at://{handle}")])),
        ..Identity::new(did.clone(), key)
    })
}

fn legacy_pds(service: &str) -> Option<Url> {
    let has_scheme = service.starts_with("http://") || service.starts_with("https://");
    match has_scheme {
        true => document::pds_url(service),
        false => document::pds_url(&format!("https://{service}")),
    }
}

/// The Multikey of a `did:key`.
fn signing_key(did_key: &Value) -> Option<String> {
    let key = did_key.as_str()?.strip_prefix("did:key:")?;
    document::is_multikey(key).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
    const KEY: &str = "zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w";

    fn line(operation: Value) -> ExportLine {
        let line = json!({
            "did": DID,
            "operation": operation,
            "cid": "bafyreibfvkh3n6odvdpwj54j4xxdsgnn4zo5utbyf7z7nfbyikhtygzjcq",
            "nullified": false,
            "createdAt": "2022-11-17T00:35:16.391Z",
        });
        ExportLine::parse(&line.to_string()).unwrap()
    }

    fn operation() -> Value {
        json!({
            "type": "plc_operation",
            "prev": null,
            "sig": "x",
            "rotationKeys": [format!("did:key:{KEY}")],
            "verificationMethods": { "atproto": format!("did:key:{KEY}") },
            "alsoKnownAs": ["at://alice.example"],
            "services": {
                "atproto_pds": {
                    "type": "AtprotoPersonalDataServer",
                    "endpoint": "https://pds.example",
                },
            },
        })
    }

    fn alice() -> Identity {
        Identity {
            pds: Some("https://pds.example".parse().unwrap()),
            handle: Some("alice.example".to_owned()),
            ..Identity::new(Did::parse(DID).unwrap(), KEY.to_owned())
        }
    }

    #[test]
    fn an_operation_says_what_the_document_says_from_then_on() {
        let line = line(operation());
        assert_eq!(line.identity, Some(alice()));
        assert_eq!(line.did.as_str(), DID);
        assert_eq!((line.is_nullified, line.seq), (false, None));
        assert_eq!(line.created_at.to_string(), "2022-11-17T00:35:16.391Z");
    }

    #[test]
    fn the_first_form_of_an_operation_is_read_with_and_without_a_scheme() {
        for service in ["https://pds.example", "pds.example"] {
            let line = line(json!({
                "type": "create",
                "prev": null,
                "sig": "x",
                "handle": "alice.example",
                "service": service,
                "signingKey": format!("did:key:{KEY}"),
                "recoveryKey": format!("did:key:{KEY}"),
            }));
            assert_eq!(line.identity, Some(alice()), "{service}");
        }
    }

    #[test]
    fn a_tombstone_and_an_operation_without_a_usable_key_leave_no_identity() {
        let mut keyless = operation();
        keyless["verificationMethods"] = json!({});
        let mut odd = operation();
        odd["verificationMethods"]["atproto"] = "did:web:example.com".into();
        for operation in [
            json!({ "type": "plc_tombstone", "prev": "x", "sig": "x" }),
            json!({ "type": "plc_of_the_future" }),
            json!({}),
            keyless,
            odd,
        ] {
            assert_eq!(line(operation.clone()).identity, None, "{operation}");
        }
    }

    #[test]
    fn a_line_of_a_directory_with_sequence_numbers_has_one() {
        let line = json!({
            "type": "sequenced_op",
            "seq": 7,
            "did": DID,
            "operation": operation(),
            "createdAt": "2026-01-01T00:00:00.000Z",
        });
        let line = ExportLine::parse(&line.to_string()).unwrap();
        assert_eq!((line.seq, line.is_nullified), (Some(7), false));
        assert_eq!(line.identity, Some(alice()));
    }

    #[test]
    fn a_line_that_is_no_operation_is_an_error_with_its_reason() {
        let error = |line: &str| ExportLine::parse(line).unwrap_err().to_string();
        assert!(error("<html>").starts_with("not an operation of a directory's export"));
        let line = |did: &str, time: &str| {
            json!({ "did": did, "operation": {}, "createdAt": time }).to_string()
        };
        assert!(error(&line(DID, "yesterday")).starts_with("createdAt is not a datetime"));
        assert!(matches!(
            ExportLine::parse(&line("alice", "2026-01-01T00:00:00Z")),
            Err(ExportError::Did(_))
        ));
    }
}
