//! Claim checks: a task that was too large for a message is without its record, which the account's host
//! has. What the host answers is outside data; the account has signed it.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use url::Url;

use crate::atproto::json::dag_cbor_to_json;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::identity::{Resolve, Resolver};
use crate::net::http_client::{Fetcher, NamedBy};
use crate::repo::host::{Deadlines, Host, HttpHosts};
use crate::repo::record_proof::prove;
use crate::sink::SinkError;

/// The deadline of one record, from the DID to the proof.
const DEADLINE: Duration = Duration::from_secs(20);
/// Connections to the directory that are kept.
const CONNECTIONS: usize = 4;

/// Where accounts and their hosts are found.
#[derive(Clone, Debug)]
pub struct Outside {
    pub plc_url: Url,
    /// For the hosts that DID documents name.
    pub allow_private_addresses: bool,
}

/// Asks hosts for records.
pub(super) struct Claims {
    resolver: Resolver,
    hosts: HttpHosts,
}

/// A record that a task names and does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    did: Did,
    collection: Nsid,
    rkey: RecordKey,
    cid: String,
    rev: Tid,
}

#[derive(Deserialize)]
struct Omitted {
    omitted: bool,
    did: String,
    collection: String,
    rkey: String,
    cid: String,
    rev: String,
}

impl Claim {
    /// What the task of `body` names; `None` if it has its record, or is no task.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        let task: Omitted = serde_json::from_slice(body).ok()?;
        task.omitted.then_some(())?;
        Some(Self {
            did: Did::parse(&task.did).ok()?,
            collection: Nsid::parse(&task.collection).ok()?,
            rkey: RecordKey::parse(&task.rkey).ok()?,
            cid: task.cid,
            rev: Tid::parse(&task.rev).ok()?,
        })
    }
}

impl Claims {
    /// # Errors
    /// If the crypto provider supports no TLS version that rustls supports.
    pub(super) fn new(outside: &Outside) -> Result<Self, SinkError> {
        let is_allowed = outside.allow_private_addresses;
        let plc_url = outside.plc_url.clone();
        let resolver = Resolver::new(plc_url, is_allowed, DEADLINE, CONNECTIONS);
        let fetcher = Fetcher::new(is_allowed).map_err(SinkError::unavailable)?;
        Ok(Self {
            resolver: resolver.map_err(SinkError::unavailable)?,
            hosts: HttpHosts::new(fetcher, Deadlines::default()),
        })
    }

    /// The task of `body` with its record; `None` if the account has another one there since, or none: a
    /// newer task says so.
    ///
    /// # Errors
    /// The reason why the record is not known. A host may be behind the task, and is asked again.
    pub(super) async fn redeem(&self, claim: &Claim, body: &[u8]) -> Result<Option<Bytes>, String> {
        let asked = timeout(DEADLINE, self.record(claim)).await;
        let late = |_| format!("no record within {} s", DEADLINE.as_secs());
        match asked.map_err(late)?? {
            Some(json) => complete(body, json).map(Some),
            None => Ok(None),
        }
    }

    async fn record(&self, claim: &Claim) -> Result<Option<String>, String> {
        let Claim {
            did,
            collection,
            rkey,
            ..
        } = claim;
        let identity = self.resolver.resolve(did).await;
        let identity = identity.map_err(|error| format!("the identity of {did}: {error}"))?;
        let key = identity.verifying_key();
        let key = key.map_err(|error| format!("{did}: its key is {error}"))?;
        let host = Host {
            url: identity.pds.ok_or_else(|| format!("{did} has no host"))?,
            named: NamedBy::Outsider,
        };
        let car = self.hosts.record(&host, did, collection, rkey).await;
        let car = car.map_err(|error| format!("the host of {did}: {error}"))?;
        let proven = prove(&car, did, &key, collection, rkey, Timestamp::now());
        let proven = proven.map_err(|error| format!("the record is not proven: {error}"))?;
        match proven.record {
            Some((cid, record)) if cid.to_string() == claim.cid => {
                let json = dag_cbor_to_json(&record);
                json.map(Some).map_err(|error| error.to_string())
            }
            // Only a commit behind the task's says that the record has changed. A host that lags shows what
            // was there before it.
            Some(_) | None if proven.rev > claim.rev => Ok(None),
            Some(_) | None => Err(format!(
                "the host of {did} does not have the record yet: its repository is at {}, the task at {}",
                proven.rev, claim.rev
            )),
        }
    }
}

/// A task with its record.
fn complete(body: &[u8], record: String) -> Result<Bytes, String> {
    type Fields = std::collections::BTreeMap<String, Box<RawValue>>;
    let told = |error: serde_json::Error| error.to_string();
    let mut fields: Fields = serde_json::from_slice(body).map_err(told)?;
    fields.remove("omitted");
    let record = RawValue::from_string(record).map_err(told)?;
    fields.insert("record".to_owned(), record);
    Ok(serde_json::to_vec(&fields).map_err(told)?.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_a_task_that_says_so_is_without_its_record() {
        let task = json!({
            "type": "upsert", "did": "did:plc:ann", "collection": "com.huddle.note", "rkey": "a",
            "cid": "bafy", "rev": "3k22222222222", "omitted": true,
        });
        let claim = |task: &Value| Claim::of(task.to_string().as_bytes());
        assert_eq!(claim(&task).unwrap().cid, "bafy");
        for (field, value) in [
            ("omitted", json!(false)),
            ("omitted", json!(1)),
            ("did", json!("ann")),
            ("rkey", json!("a/b")),
            ("cid", Value::Null),
            ("rev", json!("3k")),
        ] {
            let mut other = task.clone();
            other[field] = value;
            assert_eq!(claim(&other), None, "{other}");
        }
        assert_eq!(Claim::of(b"{"), None);
    }

    #[test]
    fn a_task_gets_its_record_and_keeps_its_fields() {
        let task = json!({ "change": u64::MAX, "omitted": true, "rev": "3k" });
        let whole = complete(task.to_string().as_bytes(), "{\"n\":1}".to_owned()).unwrap();
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        let expected = json!({ "change": u64::MAX, "rev": "3k", "record": { "n": 1 } });
        assert_eq!(whole, expected);
    }
}
