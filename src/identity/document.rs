//! DID documents: <https://atproto.com/specs/did>.

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};
use url::Url;

use crate::atproto::key::{KeyError, VerifyingKey};
use crate::atproto::syntax::{Did, is_handle};
use crate::telemetry::excerpt::excerpt;

/// The characters of a document's text in an error.
const EXCERPT: usize = 128;
/// Keys of both curves have about 50 characters. Limited, because documents are cached.
const MAX_KEY_CHARS: usize = 128;

const MAX_PDS_CHARS: usize = 512;

/// The part of an account's identity that the worker needs: the signing key and the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub did: Did,
    /// The key that signs the account's commits, as a Multikey text, in whichever form the document
    /// has it. Not yet checked to be a point of its curve.
    pub signing_key: String,
    /// The account's host: scheme, host name and port. `None` if the document has none, or none
    /// that is usable.
    pub pds: Option<Url>,
    /// The handle that the account claims. Not confirmed with its domain.
    pub handle: Option<String>,
    /// The parsed [`Self::signing_key`].
    pub(crate) read_key: ReadKey,
}

/// A key that is parsed on first use, and then used for every commit of its account.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadKey(OnceLock<Result<VerifyingKey, KeyError>>);

/// Always equal, because it is derived from the text.
impl PartialEq for ReadKey {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for ReadKey {}

/// A document that is not valid for its DID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the document is of another DID, {0:?}")]
    AnotherDid(String),

    /// It is no document at all. The text is the parser's message.
    #[error("the answer is no JSON object: {0}")]
    NoObject(Arc<str>),

    #[error("the document has no key #atproto")]
    NoSigningKey,

    #[error("the key #atproto is not a valid key of its type {0:?}")]
    SigningKey(String),

    #[error("the key #atproto has the unknown type {0:?}")]
    SigningKeyType(String),
}

impl Identity {
    /// Parses the document of `did`. Other parts of the document are ignored.
    ///
    /// # Errors
    /// If the document is of another DID, or has no signing key.
    pub fn parse(did: &Did, json: &[u8]) -> Result<Self, DocumentError> {
        let document: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|error| DocumentError::NoObject(error.to_string().into()))?;
        let document = Value::Object(document);
        let id = document["id"].as_str().unwrap_or_default();
        if id != did.as_str() {
            return Err(DocumentError::AnotherDid(excerpt(id, EXCERPT).to_owned()));
        }
        let method = entry(&document, "verificationMethod", did, "#atproto")
            .ok_or(DocumentError::NoSigningKey)?;
        Ok(Self {
            pds: entry(&document, "service", did, "#atproto_pds")
                .and_then(|service| pds(&service["type"], service["serviceEndpoint"].as_str()?)),
            handle: handle(&document["alsoKnownAs"]),
            ..Self::new(did.clone(), signing_key(method)?)
        })
    }

    /// An identity with a signing key and nothing else.
    pub fn new(did: Did, signing_key: String) -> Self {
        Self {
            did,
            signing_key,
            pds: None,
            handle: None,
            read_key: ReadKey::default(),
        }
    }

    /// The key that signs the account's commits.
    ///
    /// # Errors
    /// If the document's key is not valid.
    pub fn verifying_key(&self) -> Result<VerifyingKey, KeyError> {
        *self.read_key.0.get_or_init(|| self.signing_key.parse())
    }
}

/// The first entry of `list` with this id. The id may be written with or without the DID.
fn entry<'a>(document: &'a Value, list: &str, did: &Did, fragment: &str) -> Option<&'a Value> {
    let is_it = |id: &str| id.strip_prefix(did.as_str()).unwrap_or(id) == fragment;
    document[list]
        .as_array()?
        .iter()
        .find(|entry| entry["id"].as_str().is_some_and(is_it))
}

fn signing_key(method: &Value) -> Result<String, DocumentError> {
    let kind = method["type"].as_str().unwrap_or_default();
    let text = method["publicKeyMultibase"].as_str().unwrap_or_default();
    let key = match kind {
        "Multikey" => is_multikey(text).then(|| text.to_owned()),
        "EcdsaSecp256k1VerificationKey2019" | "EcdsaSecp256r1VerificationKey2019" => {
            multikey(kind, text)
        }
        _ => {
            return Err(DocumentError::SigningKeyType(
                excerpt(kind, EXCERPT).to_owned(),
            ));
        }
    };
    key.ok_or_else(|| DocumentError::SigningKey(kind.to_owned()))
}

/// Whether `text` may be a key. It is not yet checked to be a point of its curve.
pub(super) fn is_multikey(text: &str) -> bool {
    text.starts_with('z') && text.len() <= MAX_KEY_CHARS
}

/// Converts a key of an older type to a Multikey. The older types contain only the point,
/// compressed or not, and the type names the curve.
fn multikey(kind: &str, text: &str) -> Option<String> {
    let key = VerifyingKey::of_method(kind, text).ok()?;
    Some(key.to_string())
}

/// The host of an account, given its service by type and endpoint.
pub(super) fn pds(kind: &Value, endpoint: &str) -> Option<Url> {
    (kind == "AtprotoPersonalDataServer").then(|| pds_url(endpoint))?
}

/// A usable URL of a host: without anything but scheme, name and port.
pub(super) fn pds_url(endpoint: &str) -> Option<Url> {
    if endpoint.len() > MAX_PDS_CHARS {
        return None;
    }
    let url = Url::parse(endpoint).ok()?;
    let is_bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    (matches!(url.scheme(), "http" | "https") && is_bare).then_some(url)
}

/// The first name of the account, if that is a handle; in lower case, as in the tables.
pub(super) fn handle(also_known_as: &Value) -> Option<String> {
    also_known_as
        .as_array()?
        .iter()
        .find_map(|name| name.as_str()?.strip_prefix("at://"))
        .filter(|handle| is_handle(handle))
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use multibase::Base;
    use serde_json::json;
    use simulated_network::key::SigningKey;

    use super::*;

    const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
    const KEY: &str = "zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w";

    fn parse(document: &Value) -> Result<Identity, DocumentError> {
        let did = Did::parse(DID).unwrap();
        Identity::parse(&did, document.to_string().as_bytes())
    }

    fn document() -> Value {
        json!({
            "@context": ["https://www.w3.org/ns/did/v1"],
            "id": DID,
            "alsoKnownAs": ["https://example.com", "at://atproto.example", "at://other.example"],
            "verificationMethod": [
                { "id": "#other", "type": "Multikey", "publicKeyMultibase": "zOther" },
                {
                    "id": format!("{DID}#atproto"),
                    "type": "Multikey",
                    "controller": DID,
                    "publicKeyMultibase": KEY,
                },
            ],
            "service": [
                { "id": "#atproto_labeler", "type": "AtprotoLabeler", "serviceEndpoint": "https://mod.example" },
                {
                    "id": "#atproto_pds",
                    "type": "AtprotoPersonalDataServer",
                    "serviceEndpoint": "https://pds.example",
                },
            ],
        })
    }

    #[test]
    fn a_document_gives_key_host_and_handle() {
        let identity = parse(&document()).unwrap();
        assert_eq!(identity.did.as_str(), DID);
        assert_eq!(identity.signing_key, KEY);
        assert_eq!(identity.pds, Url::parse("https://pds.example").ok());
        assert_eq!(identity.handle.as_deref(), Some("atproto.example"));
    }

    #[test]
    fn ids_may_be_relative_or_absolute_but_not_of_another_did() {
        let mut document = document();
        document["verificationMethod"][1]["id"] = "#atproto".into();
        document["service"][1]["id"] = format!("{DID}#atproto_pds").into();
        assert_eq!(parse(&document), parse(&self::document()));

        document["verificationMethod"][1]["id"] = "did:plc:another#atproto".into();
        assert_eq!(parse(&document), Err(DocumentError::NoSigningKey));
    }

    #[test]
    fn a_document_of_another_did_is_refused() {
        let mut document = document();
        document["id"] = "did:plc:another".into();
        let another = DocumentError::AnotherDid("did:plc:another".to_owned());
        assert_eq!(parse(&document), Err(another));
        document["id"] = json!(7);
        let none = DocumentError::AnotherDid(String::new());
        assert_eq!(parse(&document), Err(none));
    }

    #[test]
    fn an_answer_that_is_no_json_object_is_no_document() {
        let did = Did::parse(DID).unwrap();
        for text in [
            "",
            "<!doctype html>",
            "{",
            &"[".repeat(1000),
            "[]",
            "[{}]",
            "null",
            "\"did\"",
        ] {
            let refused = Identity::parse(&did, text.as_bytes());
            assert!(matches!(refused, Err(DocumentError::NoObject(_))), "{text}");
        }
        let empty = Identity::parse(&did, b"{}");
        assert_eq!(empty, Err(DocumentError::AnotherDid(String::new())));
    }

    #[test]
    fn without_a_usable_key_there_is_no_identity() {
        let refused = |change: fn(&mut Value)| {
            let mut document = document();
            change(&mut document["verificationMethod"]);
            parse(&document).unwrap_err()
        };
        let no_key = DocumentError::NoSigningKey;
        assert_eq!(refused(|methods| *methods = Value::Null), no_key);
        assert_eq!(refused(|methods| *methods = json!([{}, 7])), no_key);
        assert_eq!(
            refused(|methods| methods[1]["type"] = "JsonWebKey2020".into()),
            DocumentError::SigningKeyType("JsonWebKey2020".to_owned())
        );
        let not_one = DocumentError::SigningKey("Multikey".to_owned());
        for key in [json!(null), json!("Q3sh"), json!("z".repeat(129))] {
            let mut document = document();
            document["verificationMethod"][1]["publicKeyMultibase"] = key;
            assert_eq!(parse(&document), Err(not_one.clone()));
        }
    }

    #[test]
    fn keys_of_the_older_types_become_multikeys() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..8 {
            let key = SigningKey::generate(&mut random);
            let (kind, compressed, uncompressed) = match &key {
                SigningKey::K256(key) => (
                    "EcdsaSecp256k1VerificationKey2019",
                    key.verifying_key().to_encoded_point(true).to_bytes(),
                    key.verifying_key().to_encoded_point(false).to_bytes(),
                ),
                SigningKey::P256(key) => (
                    "EcdsaSecp256r1VerificationKey2019",
                    key.verifying_key().to_encoded_point(true).to_bytes(),
                    key.verifying_key().to_encoded_point(false).to_bytes(),
                ),
            };
            let mut document = document();
            let mut read = |point: &[u8]| {
                let method = &mut document["verificationMethod"][1];
                method["type"] = kind.into();
                method["publicKeyMultibase"] = multibase::encode(Base::Base58Btc, point).into();
                parse(&document).map(|identity| identity.signing_key)
            };
            assert_eq!(read(&compressed), Ok(key.public_multibase()));
            assert_eq!(read(&uncompressed), Ok(key.public_multibase()));

            let mut off_curve = uncompressed.to_vec();
            off_curve[40] ^= 1;
            let mut hybrid = uncompressed.to_vec();
            hybrid[0] = 6 + (hybrid[64] & 1);
            for wrong in [&off_curve[..], &hybrid, &[4; 64], &[]] {
                let refused = DocumentError::SigningKey(kind.to_owned());
                assert_eq!(read(wrong), Err(refused), "{wrong:02x?}");
            }
        }
        let long = "z1".repeat(500);
        for wrong in ["", "z0", &long] {
            assert_eq!(multikey("EcdsaSecp256k1VerificationKey2019", wrong), None);
        }
    }

    #[test]
    fn an_unusable_host_is_none() {
        for endpoint in [
            json!("ftp://pds.example"),
            json!("https://user@pds.example"),
            json!("https://pds.example/path"),
            json!("https://pds.example/?query"),
            json!("pds.example"),
            json!(format!("https://{}", "a.".repeat(300))),
            json!(["https://pds.example"]),
        ] {
            let mut document = document();
            document["service"][1]["serviceEndpoint"] = endpoint;
            assert_eq!(parse(&document).unwrap().pds, None, "{document}");
        }
        let mut document = document();
        document["service"][1]["type"] = "Another".into();
        assert_eq!(parse(&document).unwrap().pds, None);
    }

    #[test]
    fn an_invalid_handle_is_none() {
        for names in [
            json!(null),
            json!(["https://example.com"]),
            json!(["at://no_handle"]),
        ] {
            let mut document = document();
            document["alsoKnownAs"] = names;
            assert_eq!(parse(&document).unwrap().handle, None);
        }
    }
}
