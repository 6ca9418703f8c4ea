//! Tests the resolver against hosts that a `did:web` names. Holds invariant 9.3.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::locate::LocateError;
use huddle_firehose::identity::resolve::{Invalid, Resolve, ResolveError};
use huddle_firehose::net::http_client::FetchError;
use huddle_firehose::net::redirect::RedirectError;
use test_support::scripted_server::{Server, answer};

use super::{KEY, SLOT_TIMEOUT, did, document, fetch_error, plc, resolve, resolver};

/// No test asks it.
const DIRECTORY: &str = "http://127.0.0.1:9";

/// The DID of a server on a port of this machine.
fn local(server: &Server) -> Did {
    let url = server.http_url("");
    let (_, port) = url.rsplit_once(':').unwrap();
    did(&format!("did:web:localhost%3A{port}"))
}

fn redirect(location: &str) -> String {
    answer("302 Found", &format!("location: {location}\r\n"), "")
}

async fn resolve_locally(did: &Did) -> Result<String, ResolveError> {
    let identity = resolver(DIRECTORY, true, SLOT_TIMEOUT).resolve(did).await;
    identity.map(|identity| identity.signing_key)
}

/// A server with the document of its own DID.
async fn host() -> Server {
    Server::start(|request| async move {
        let host = request.header("host").unwrap().replace(':', "%3A");
        let document = document(&did(&format!("did:web:{host}")));
        request.answer(answer("200 OK", "", &document)).await;
    })
    .await
}

#[tokio::test]
async fn a_host_with_a_port_is_asked_for_its_document() {
    let host = host().await;
    assert_eq!(resolve_locally(&local(&host)).await, Ok(KEY.to_owned()));
    assert_eq!(host.request_lines(), ["GET /.well-known/did.json HTTP/1.1"]);
}

#[tokio::test]
async fn a_host_without_a_document_has_no_identity() {
    for status in ["404 Not Found", "410 Gone"] {
        let host = Server::answering(&answer(status, "", "")).await;
        let not_found = Err(ResolveError::NotFound);
        assert_eq!(resolve_locally(&local(&host)).await, not_found);
    }
}

#[tokio::test]
async fn the_retry_after_of_a_host_holds_for_that_host_only() {
    let busy = answer("429 Too Many Requests", "retry-after: 600\r\n", "");
    let (busy, host) = (Server::answering(&busy).await, host().await);
    let resolver = resolver(DIRECTORY, true, SLOT_TIMEOUT);
    assert!(resolver.resolve(&local(&busy)).await.is_err());
    assert!(resolver.resolve(&local(&host)).await.is_ok());
    assert!(resolver.resolve(&local(&busy)).await.is_err());
    assert_eq!(busy.request_lines().len(), 2);
}

#[tokio::test]
async fn this_machine_is_not_asked_unless_allowed() {
    let host = host().await;
    let private = Invalid::Did(LocateError::Private);
    assert_eq!(resolve(DIRECTORY, &local(&host)).await, Err(private.into()));
    assert!(host.request_lines().is_empty());
}

#[tokio::test]
async fn the_plc_directory_may_be_private_but_redirects_to_no_other_private_address() {
    let target = Server::answering(&answer("200 OK", "", &document(&plc(1)))).await;
    let by_address = target.http_url("/");
    let by_name = by_address.replace("127.0.0.1", "localhost");
    for location in [by_address, by_name] {
        let directory = Server::answering(&redirect(&location)).await;
        let error = fetch_error(resolve(&directory.http_url(""), &plc(1)).await);
        assert!(matches!(error, FetchError::PrivateAddress(_)), "{error}");
        assert_eq!(directory.request_lines().len(), 1);
        assert!(target.request_lines().is_empty());
    }
    let directory = Server::answering(&redirect(&target.http_url("/"))).await;
    let allowing = resolver(&directory.http_url(""), true, SLOT_TIMEOUT);
    assert!(allowing.resolve(&plc(1)).await.is_ok());
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_only_over_http() {
    let host = Server::start(|request| async move {
        let location = format!("/{}", request.number);
        request.answer(redirect(&location)).await;
    })
    .await;
    let resolver = resolver(DIRECTORY, true, SLOT_TIMEOUT);
    let error = fetch_error(resolver.resolve(&local(&host)).await);
    assert_eq!(error, FetchError::Redirect(RedirectError::TooMany(5)));
    assert_eq!(host.request_lines().len(), 6);

    let elsewhere = Server::answering(&redirect("file:///etc/passwd")).await;
    let error = fetch_error(resolver.resolve(&local(&elsewhere)).await);
    let location = "file:///etc/passwd".to_owned();
    let refused = FetchError::Redirect(RedirectError::InvalidLocation(location));
    assert_eq!(error, refused);
}
