//! Tests the resolver against a PLC directory, with and without failures. Holds invariant 8.5.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::document::DocumentError;
use huddle_firehose::identity::resolve::{Invalid, Resolve, ResolveError, Unavailable};
use huddle_firehose::identity::{Identities, Identity, Limits};
use huddle_firehose::net::http_client::FetchError;
use huddle_firehose::net::redirect::RedirectError;
use serde_json::Value;
use simulated_network::http::HttpServer;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::scripted_server::{Server, answer};
use test_support::shared_data::shared_data;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::sleep;

use super::{SLOT_TIMEOUT, did, document, fetch_error, plc, resolve, resolver};

/// A PLC directory of the accounts of a simulated network.
struct Directory {
    network: Arc<Mutex<Network>>,
    server: HttpServer,
    did: Did,
}

impl Directory {
    async fn start() -> Self {
        let network = Network::new(1, Shape::default());
        let did = did(&network.accounts()[0].did);
        let network = Arc::new(Mutex::new(network));
        let server = HttpServer::start(Arc::clone(&network)).await.unwrap();
        Self {
            network,
            server,
            did,
        }
    }

    fn keys(&self) -> BTreeMap<String, String> {
        let network = self.network.lock().unwrap();
        let accounts = network.accounts().iter();
        accounts
            .map(|account| (account.did.clone(), account.repo.key().public_multibase()))
            .collect()
    }

    /// The result of a lookup with the failure `mishap`.
    async fn resolve_with(&self, mishap: Mishap) -> Result<Identity, ResolveError> {
        self.server.misbehave(Endpoint::DidDocument, mishap, 1);
        resolve(&self.server.url(), &self.did).await
    }
}

#[tokio::test]
async fn every_account_is_found_with_its_key_and_host() {
    let directory = Directory::start().await;
    let url = directory.server.url();
    let keys = directory.keys();
    assert!(keys.len() > 5);
    let resolver = resolver(&url, false, SLOT_TIMEOUT);
    for (account, key) in keys {
        let identity = resolver.resolve(&did(&account)).await.unwrap();
        assert_eq!(identity.signing_key, key);
        assert_eq!(identity.pds.unwrap().as_str(), format!("{url}/"));
        assert!(identity.handle.unwrap().ends_with(".test"));
    }
}

#[tokio::test]
async fn a_rotated_key_is_found_by_a_refresh() {
    let directory = Directory::start().await;
    let before = directory.keys();
    let resolver = resolver(&directory.server.url(), false, SLOT_TIMEOUT);
    let identities = Identities::new(resolver, Limits::default());
    for account in before.keys() {
        identities.get(&did(account)).await.unwrap();
    }
    let (account, key) = (0..1000)
        .find_map(|_| {
            directory.network.lock().unwrap().steps(10);
            let mut keys = directory.keys().into_iter();
            keys.find(|(account, key)| before.get(account).is_some_and(|old| old != key))
        })
        .unwrap();
    let account = did(&account);
    let known = identities.get(&account).await.unwrap();
    assert_eq!(known.signing_key, before[account.as_str()]);
    let refreshed = identities.refresh(&account).await.unwrap().unwrap();
    assert_eq!(refreshed.signing_key, key);
    assert_eq!(identities.get(&account).await, Ok(refreshed));
}

#[tokio::test]
async fn a_did_that_the_directory_does_not_know_is_not_found() {
    let directory = Directory::start().await;
    let answer = resolve(&directory.server.url(), &plc(1)).await;
    assert_eq!(answer, Err(ResolveError::NotFound));
}

#[tokio::test]
async fn a_deleted_did_is_tombstoned() {
    let directory = Directory::start().await;
    let answer = directory.resolve_with(Mishap::Status(410)).await;
    assert_eq!(answer, Err(ResolveError::Tombstoned));
}

#[tokio::test]
async fn other_statuses_leave_it_unknown() {
    let directory = Directory::start().await;
    for status in [204, 304, 400, 403, 429, 500, 502, 503] {
        let answer = directory.resolve_with(Mishap::Status(status)).await;
        let expected = FetchError::Status {
            status,
            retry_after: None,
        };
        assert_eq!(fetch_error(answer), expected);
    }
    assert!(
        resolve(&directory.server.url(), &directory.did)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_truncated_answer_leaves_it_unknown() {
    let directory = Directory::start().await;
    let answer = directory.resolve_with(Mishap::Truncated).await;
    assert!(matches!(fetch_error(answer), FetchError::Transport(_)));
}

#[tokio::test]
async fn an_unreachable_directory_leaves_it_unknown() {
    // The port is in use, but not listened on.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let error = fetch_error(resolve(&url, &plc(1)).await);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_object_leaves_it_unknown() {
    let directory = Directory::start().await;
    for body in [
        "",
        "<!doctype html><title>Welcome</title>",
        "[]",
        "\"did\"",
        "{\"id\":",
    ] {
        let answer = directory.resolve_with(Mishap::Body(body.into())).await;
        let is_no_document = matches!(
            answer,
            Err(ResolveError::Unavailable(Unavailable::NoDocument(_)))
        );
        assert!(is_no_document, "{body:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_document_of_another_did_is_invalid() {
    let server = Server::answering(&answer("200 OK", "", &document(&plc(2)))).await;
    let another = DocumentError::AnotherDid(plc(2).to_string());
    assert_eq!(
        resolve(&server.http_url(""), &plc(1)).await,
        Err(Invalid::Document(another).into())
    );
    assert!(resolve(&server.http_url(""), &plc(2)).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_is_too_long_leaves_it_unknown() {
    let directory = Directory::start().await;
    let too_large = FetchError::TooLarge { limit: 256 << 10 };
    let answer = directory.resolve_with(Mishap::Oversized(256 << 10)).await;
    assert_eq!(fetch_error(answer), too_large);

    // One that announces its length, and one that never ends.
    let server = Server::start(|request| async move {
        let headers = match request.number {
            0 => "content-length: 10000000000",
            _ => "connection: close",
        };
        let mut stream = request.unanswered();
        let head = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
    })
    .await;
    for _ in 0..2 {
        let answer = resolve(&server.http_url(""), &plc(1)).await;
        assert_eq!(fetch_error(answer), too_large);
    }
}

#[tokio::test]
async fn one_deadline_covers_the_whole_lookup() {
    let drip = Server::start(|request| async move {
        let mut stream = request.unanswered();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let silent = Server::start(|request| request.ignore()).await;
    for server in [drip, silent] {
        let deadline = Duration::from_millis(200);
        let resolver = resolver(&server.http_url(""), false, deadline);
        let error = fetch_error(resolver.resolve(&plc(1)).await);
        assert_eq!(error, FetchError::Deadline(deadline));
    }
}

#[tokio::test]
async fn a_redirect_loop_leaves_it_unknown() {
    let directory = Directory::start().await;
    let answer = directory.resolve_with(Mishap::RedirectLoop).await;
    let looped = FetchError::Redirect(RedirectError::Loop(format!(
        "{}/{}",
        directory.server.url(),
        directory.did
    )));
    assert_eq!(fetch_error(answer), looped);
}

#[tokio::test]
async fn the_retry_after_of_the_directory_holds_for_all_lookups() {
    let directory = Directory::start().await;
    let mishap = Mishap::RetryAfter(600);
    directory.server.misbehave(Endpoint::DidDocument, mishap, 1);
    let resolver = resolver(&directory.server.url(), false, SLOT_TIMEOUT);
    let identities = Identities::new(resolver, Limits::default());
    let refused = identities.get(&directory.did).await.unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(600)));
    for number in 1..=3 {
        let answer = identities.get(&plc(number)).await;
        let Err(ResolveError::Unavailable(Unavailable::Paused(rest))) = answer else {
            panic!("{answer:?}");
        };
        assert!((590..=600).contains(&rest.as_secs()), "{rest:?}");
        assert_eq!(
            identities
                .wait(&plc(number))
                .map(|rest| rest.as_secs() / 10),
            Some(59)
        );
    }
    assert_eq!(directory.server.requests(Endpoint::DidDocument), 1);
}

#[test]
fn the_documents_of_production_are_read() {
    let Some(path) = shared_data("production/did_docs.json.zst") else {
        return;
    };
    let json = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    let documents: BTreeMap<String, Value> = serde_json::from_slice(&json).unwrap();
    assert!(documents.len() > 10);
    for (account, document) in documents {
        let json = document.to_string();
        let identity = Identity::parse(&did(&account), json.as_bytes()).unwrap();
        let key = &document["verificationMethod"][0]["publicKeyMultibase"];
        assert_eq!(key, &identity.signing_key);
        assert!(
            identity.pds.is_some() && identity.handle.is_some(),
            "{json}"
        );
    }
}
