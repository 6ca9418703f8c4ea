//! Dials and requests over TLS to servers with valid and invalid certificates. `make.sh` made the
//! certificates.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use super::dial::{Dialer, Socket};
use crate::net::http_client::{FetchError, Fetcher, NamedBy};
use crate::net::tls::{client_config, connector, trusting};
use crate::source::Resume;
use crate::source::error::{ConnectError, RetryAdvice};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio_tungstenite::Connector;

const ROOT: &[u8] = include_bytes!("root.der");
const LOOPBACK: &[u8] = include_bytes!("loopback.der");
const EXPIRED: &[u8] = include_bytes!("expired.der");
/// The certificate of another host.
const OTHER_HOST: &[u8] = include_bytes!("stranger.der");
const KEY: &[u8] = include_bytes!("server.key.der");

fn our_root() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ROOT.into()).unwrap();
    trusting(roots).unwrap().with_no_client_auth()
}

fn trusting_our_root() -> Connector {
    Connector::Rustls(Arc::new(our_root()))
}

/// Dials a server that presents `certificate` and then sends one message.
async fn dial(connector: Connector, certificate: &'static [u8]) -> Result<Socket, ConnectError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    thread::spawn(move || serve(listener.accept().unwrap().0, certificate));
    let dialer = Dialer {
        connector,
        deadline: Duration::from_secs(20),
        user_agent: "test".parse().unwrap(),
    };
    dialer.dial(&Url::parse(&url).unwrap(), Resume::Live).await
}

/// Sends a request to a server that presents `certificate` and then answers.
async fn get(tls: ClientConfig, certificate: &'static [u8]) -> Result<Bytes, FetchError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    thread::spawn(move || answer(listener.accept().unwrap().0, certificate));
    let url = Url::parse(&url).unwrap();
    let deadline = Duration::from_secs(20);
    Fetcher::trusting(tls, false)
        .get_whole(&url, NamedBy::Operator, 100, deadline)
        .await
}

/// Errors are ignored here, because the client reports them.
fn serve(stream: TcpStream, certificate: &'static [u8]) {
    if let Ok(mut socket) = tungstenite::accept(encrypted(stream, certificate)) {
        let _ = socket.send(Message::binary("over TLS"));
        while socket.read().is_ok() {}
    }
}

fn answer(stream: TcpStream, certificate: &'static [u8]) {
    let mut stream = encrypted(stream, certificate);
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nover TLS");
    while stream.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
}

fn encrypted(
    stream: TcpStream,
    certificate: &'static [u8],
) -> StreamOwned<ServerConnection, TcpStream> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .unwrap();
    let connection = ServerConnection::new(Arc::new(config)).unwrap();
    StreamOwned::new(connection, stream)
}

async fn assert_refused(connector: Connector, certificate: &'static [u8], why: &str) {
    let error = dial(connector, certificate).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(error.advice(), RetryAdvice::Backoff);
}

#[tokio::test]
async fn a_server_with_a_good_certificate_is_read() {
    let mut socket = dial(trusting_our_root(), LOOPBACK).await.unwrap();
    let message = socket.next().await.unwrap().unwrap();
    assert_eq!(message, Message::binary("over TLS"));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_root_is_refused() {
    assert_refused(connector().unwrap(), LOOPBACK, "UnknownIssuer").await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused() {
    assert_refused(trusting_our_root(), EXPIRED, "expired").await;
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused() {
    assert_refused(trusting_our_root(), OTHER_HOST, "not valid for name").await;
}

#[tokio::test]
async fn a_request_is_answered_where_the_certificate_is_good_and_refused_elsewhere() {
    let answer = get(our_root(), LOOPBACK).await;
    assert_eq!(answer.unwrap(), Bytes::from("over TLS"));
    for (tls, certificate, why) in [
        (client_config().unwrap(), LOOPBACK, "UnknownIssuer"),
        (our_root(), EXPIRED, "expired"),
        (our_root(), OTHER_HOST, "not valid for name"),
    ] {
        let error = get(tls, certificate).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_tls_connector_can_be_built_in_any_process() {
    assert!(matches!(connector(), Ok(Connector::Rustls(_))));
}
