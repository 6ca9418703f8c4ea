//! Lexicon documents as their authorities publish them: from an NSID to the account that may define it,
//! and to the record in its repository. <https://atproto.com/specs/lexicon#lexicon-publication-and-resolution>

use std::time::Duration;

use cid::Cid;
use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use super::host::{Host, HostError, HttpHosts};
use super::record_proof::{ProvenRecord, RecordProofError, prove};
use crate::atproto::cbor::CborError;
use crate::atproto::json::dag_cbor_to_json;
use crate::atproto::key::KeyError;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::identity::{Resolve, ResolveError, Resolver};
use crate::lexicon::{MAX_DOCUMENT, SchemaError, check_document};
use crate::net::dns::{Dns, DnsError};
use crate::net::http_client::NamedBy;

/// The collection of lexicon documents.
const COLLECTION: &str = "com.atproto.lexicon.schema";

/// The deadline of one document, from the name to the record.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where published documents are found.
pub struct Authorities {
    pub dns: Dns,
    pub resolver: Resolver,
    pub hosts: HttpHosts,
}

/// A document, as its authority has signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedLexicon {
    pub nsid: Nsid,
    /// The account that defines it.
    pub did: Did,
    /// The host that gave it.
    pub host: Url,
    pub cid: Cid,
    /// The rev of the commit that proves it.
    pub rev: Tid,
    /// The document, indented.
    pub json: String,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum LexiconFetchError {
    #[error("{name} has {found} records that begin with did=, and must have one")]
    Authority { name: String, found: usize },

    #[error("the record is no data of the protocol: {0}")]
    Cbor(#[from] CborError),

    #[error("no document within {} s", DEADLINE.as_secs())]
    Deadline,

    #[error("{name} names {found:?}, which is no DID")]
    Did { name: String, found: String },

    #[error(transparent)]
    Dns(#[from] DnsError),

    #[error("{url}: {error}")]
    Host { url: Url, error: HostError },

    #[error("the identity of {did}: {error}")]
    Identity { did: Did, error: ResolveError },

    #[error("{did}: its key is {error}")]
    Key { did: Did, error: KeyError },

    #[error("the document has more than {MAX_DOCUMENT} bytes")]
    Long,

    #[error("{0} has no host")]
    NoHost(Did),

    #[error("at://{did}/{COLLECTION}/{nsid} does not exist, which its account has signed")]
    NoRecord { did: Did, nsid: Nsid },

    #[error("at://{did}/{COLLECTION}/{nsid} is not proven: {error}")]
    Proof {
        did: Did,
        nsid: Nsid,
        error: RecordProofError,
    },

    #[error("the published document cannot be used: {0}")]
    Schema(#[from] SchemaError),

    #[error("the record at {COLLECTION}/{0} is not the document of this name")]
    WrongRecord(Nsid),
}

impl Authorities {
    /// Fetches the document of `nsid`, and verifies that the account that its domain names has signed
    /// it.
    ///
    /// # Errors
    /// If it is not published, or not proven.
    pub async fn fetch(&self, nsid: &Nsid) -> Result<PublishedLexicon, LexiconFetchError> {
        let fetched = tokio::time::timeout(DEADLINE, self.fetch_without_deadline(nsid)).await;
        fetched.unwrap_or(Err(LexiconFetchError::Deadline))
    }

    async fn fetch_without_deadline(
        &self,
        nsid: &Nsid,
    ) -> Result<PublishedLexicon, LexiconFetchError> {
        let name = authority(nsid);
        let did = one_did(&name, &self.dns.texts(&name).await?)?;
        let identity = self.resolver.resolve(&did).await;
        let identity = identity.map_err(|error| LexiconFetchError::Identity {
            did: did.clone(),
            error,
        })?;
        let key = identity.verifying_key();
        let key = key.map_err(|error| LexiconFetchError::Key {
            did: did.clone(),
            error,
        })?;
        let url = identity.pds.ok_or(LexiconFetchError::NoHost(did.clone()))?;
        let host = Host {
            url: url.clone(),
            named: NamedBy::Outsider,
        };
        // An NSID is always a valid record key.
        let wrong = || LexiconFetchError::WrongRecord(nsid.clone());
        let collection = Nsid::parse(COLLECTION).map_err(|_| wrong())?;
        let rkey = RecordKey::parse(nsid.as_str()).map_err(|_| wrong())?;
        let car = self.hosts.record(&host, &did, &collection, &rkey).await;
        let car = car.map_err(|error| LexiconFetchError::Host {
            url: url.clone(),
            error,
        })?;
        let proven = prove(&car, &did, &key, &collection, &rkey, Timestamp::now());
        let ProvenRecord { rev, record } = proven.map_err(|error| LexiconFetchError::Proof {
            did: did.clone(),
            nsid: nsid.clone(),
            error,
        })?;
        let Some((cid, record)) = record else {
            let nsid = nsid.clone();
            return Err(LexiconFetchError::NoRecord { did, nsid });
        };
        Ok(PublishedLexicon {
            json: document(nsid, &record)?,
            nsid: nsid.clone(),
            did,
            host: url,
            cid,
            rev,
        })
    }
}

/// The name whose texts name the account: the NSID without its last segment, in the order of DNS.
fn authority(nsid: &Nsid) -> String {
    let segments = nsid.as_str().split('.').rev().skip(1);
    let domain: Vec<&str> = segments.collect();
    format!("_lexicon.{}", domain.join("."))
}

/// The DID in the texts of a name. There must be exactly one.
fn one_did(name: &str, texts: &[String]) -> Result<Did, LexiconFetchError> {
    let dids: Vec<&str> = texts
        .iter()
        .filter_map(|text| text.strip_prefix("did="))
        .collect();
    match dids[..] {
        [did] => Did::parse(did.trim()).map_err(|_| LexiconFetchError::Did {
            name: name.to_owned(),
            found: did.chars().take(128).collect(),
        }),
        _ => Err(LexiconFetchError::Authority {
            name: name.to_owned(),
            found: dids.len(),
        }),
    }
}

/// The document of `nsid` in a record, indented.
fn document(nsid: &Nsid, record: &[u8]) -> Result<String, LexiconFetchError> {
    let json = dag_cbor_to_json(record)?;
    let value: Value = serde_json::from_str(&json).map_err(SchemaError::from)?;
    let is_it = value["$type"] == COLLECTION && value["id"] == nsid.as_str();
    if !is_it {
        return Err(LexiconFetchError::WrongRecord(nsid.clone()));
    }
    let json = format!("{value:#}\n");
    check_document(&json)?;
    match json.len() as u64 {
        0..=MAX_DOCUMENT => Ok(json),
        _ => Err(LexiconFetchError::Long),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_of_a_name_is_its_domain_without_the_last_segment() {
        let name = |nsid: &str| authority(&Nsid::parse(nsid).unwrap());
        assert_eq!(name("app.bsky.feed.post"), "_lexicon.feed.bsky.app");
        assert_eq!(name("com.example.note"), "_lexicon.example.com");
    }

    #[test]
    fn exactly_one_text_names_the_account() {
        let of = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            one_did("_lexicon.example.com", &texts).map_err(|error| error.to_string())
        };
        let ann = Did::parse("did:plc:ann").unwrap();
        assert_eq!(of(&["v=spf1", "did=did:plc:ann"]), Ok(ann));
        for (texts, reason) in [
            (&["v=spf1"][..], "has 0 records"),
            (&["did=did:plc:ann", "did=did:plc:bob"], "has 2 records"),
            (&["did=did:plc:ann", "did=did:plc:ann"], "has 2 records"),
            (&["did=ann"], "\"ann\", which is no DID"),
        ] {
            let error = of(texts).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
