//! Tests the lookup of identities: the cache with a scripted resolver in paused time, and the
//! resolver with real servers.

mod cache;
mod directory;
mod doubt;
mod expected;
mod hosts;
mod refresh;
mod restart;
mod scripted;

use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::Identity;
use huddle_firehose::identity::resolve::{Resolve, ResolveError, Resolver, Unavailable};
use huddle_firehose::net::http_client::FetchError;
use serde_json::json;
use test_support::waiting::SLOT_TIMEOUT;
use url::Url;

const KEY: &str = "zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w";

fn did(text: &str) -> Did {
    Did::parse(text).unwrap()
}

/// The DID with this number.
fn plc(number: usize) -> Did {
    let letters = format!("{number:0>24}").replace('0', "a").replace('1', "b");
    did(&format!(
        "did:plc:{}",
        letters.replace('8', "y").replace('9', "z")
    ))
}

fn document(did: &Did) -> String {
    json!({
        "id": did,
        "verificationMethod": [
            { "id": "#atproto", "type": "Multikey", "publicKeyMultibase": KEY },
        ],
        "service": [],
    })
    .to_string()
}

fn resolver(plc_url: &str, allow_private_addresses: bool, deadline: Duration) -> Resolver {
    let plc_url = Url::parse(plc_url).unwrap();
    Resolver::new(plc_url, allow_private_addresses, deadline, 4).unwrap()
}

async fn resolve(plc_url: &str, did: &Did) -> Result<Identity, ResolveError> {
    resolver(plc_url, false, SLOT_TIMEOUT).resolve(did).await
}

fn fetch_error(answer: Result<Identity, ResolveError>) -> FetchError {
    match answer {
        Err(ResolveError::Unavailable(Unavailable::Fetch(error))) => error,
        other => panic!("{other:?}"),
    }
}
