//! Dials over TLS, to servers whose certificates are good or not. `make.sh` made the certificates.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use super::*;
use crate::source::Resume;
use crate::source::dial::{Dialer, Socket};
use crate::source::error::{ConnectError, RetryAdvice};

const ROOT: &[u8] = include_bytes!("root.der");
const LOOPBACK: &[u8] = include_bytes!("loopback.der");
const EXPIRED: &[u8] = include_bytes!("expired.der");
/// Of another host.
const STRANGER: &[u8] = include_bytes!("stranger.der");
const KEY: &[u8] = include_bytes!("server.key.der");

fn trusting_our_root() -> Connector {
    let mut roots = RootCertStore::empty();
    roots.add(ROOT.into()).unwrap();
    Connector::Rustls(Arc::new(trusting(roots).unwrap()))
}

/// Dials a server that shows `certificate` and then sends one message.
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

/// What goes wrong is seen by the client.
fn serve(stream: TcpStream, certificate: &'static [u8]) {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .unwrap();
    let connection = ServerConnection::new(Arc::new(config)).unwrap();
    if let Ok(mut socket) = tungstenite::accept(StreamOwned::new(connection, stream)) {
        let _ = socket.send(Message::binary("over TLS"));
        while socket.read().is_ok() {}
    }
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
    assert_refused(trusting_our_root(), STRANGER, "not valid for name").await;
}

#[test]
fn a_tls_connector_can_be_built_in_any_process() {
    assert!(matches!(connector(), Ok(Connector::Rustls(_))));
}
