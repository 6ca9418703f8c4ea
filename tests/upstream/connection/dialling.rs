//! Dials that succeed and dials that fail. Holds invariant 8.1.

use std::time::Duration;

use huddle_firehose::net::redirect::RedirectError;
use huddle_firehose::source::error::{ConnectError, RetryAdvice};
use huddle_firehose::source::firehose::websocket::WebSocketOptions;
use huddle_firehose::source::{Resume, Source};
use test_support::scripted_server::{Request, Server, header};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::{connect, connect_error, source, source_with};

async fn accept(request: Request) {
    request.upgrade_raw().await;
}

fn redirect_to(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

fn http(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\n<html>")
}

async fn assert_left_at_the_deadline(url: &str) {
    let connect_deadline = Duration::from_millis(100);
    let options = WebSocketOptions {
        connect_deadline,
        ..WebSocketOptions::default()
    };
    let source = source_with(url, options);
    let error = source.connect(Resume::Live).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::Deadline(deadline) if deadline == connect_deadline),
        "{error}"
    );
}

#[tokio::test]
async fn the_cursor_is_sent_as_requested() {
    let server = Server::start(accept).await;
    for resume in [Resume::Oldest, Resume::Live, Resume::After(7)] {
        connect(&server.url("/s?did=x"), resume).await;
    }
    assert_eq!(
        server.request_lines(),
        [
            "GET /s?did=x&cursor=0 HTTP/1.1",
            "GET /s?did=x HTTP/1.1",
            "GET /s?did=x&cursor=7 HTTP/1.1",
        ]
    );
}

#[tokio::test]
async fn the_client_names_itself_and_requests_no_subprotocol() {
    let server = Server::start(accept).await;
    connect(&server.url("/"), Resume::Live).await;
    let head = server.heads().remove(0);
    let user_agent = header(&head, "user-agent").unwrap();
    assert!(user_agent.starts_with("huddle-firehose/"), "{user_agent}");
    assert_eq!(header(&head, "sec-websocket-protocol"), None);
}

#[tokio::test]
async fn a_redirect_is_followed_and_the_source_keeps_its_name() {
    let target = Server::start(accept).await;
    let location = target.url("/there?x=1").replace("ws://", "http://");
    let server = Server::answering(&redirect_to(&location)).await;
    let source = source(&server.url("/here"));
    assert!(source.connect(Resume::After(7)).await.is_ok());
    assert_eq!(server.request_lines(), ["GET /here?cursor=7 HTTP/1.1"]);
    assert_eq!(target.request_lines(), ["GET /there?x=1&cursor=7 HTTP/1.1"]);
    assert_eq!(source.id().as_str(), server.url("/here"));
}

#[tokio::test]
async fn a_redirect_loop_is_refused() {
    let server = Server::answering(&redirect_to("/s")).await;
    let error = connect_error(&server.url("/s")).await;
    assert!(
        matches!(error, ConnectError::Redirect(RedirectError::Loop(_))),
        "{error}"
    );
    assert_eq!(error.advice(), RetryAdvice::AtCeiling);
    assert_eq!(server.request_lines().len(), 1);
}

#[tokio::test]
async fn the_retry_after_of_a_server_is_kept() {
    let answer = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n\r\n";
    let server = Server::answering(answer).await;
    let error = connect_error(&server.url("/")).await;
    let asked = RetryAdvice::NotBefore(Duration::from_secs(7));
    assert_eq!(error.advice(), asked, "{error}");
}

#[tokio::test]
async fn each_http_answer_has_its_own_advice() {
    for (answer, status, advice) in [
        ("200 OK", 200, RetryAdvice::AtCeiling),
        ("404 Not Found", 404, RetryAdvice::AtCeiling),
        ("501 Not Implemented", 501, RetryAdvice::AtCeiling),
        ("503 Service Unavailable", 503, RetryAdvice::Backoff),
    ] {
        let server = Server::answering(&http(answer)).await;
        let error = connect_error(&server.url("/")).await;
        assert_eq!(error.advice(), advice, "{error}");
        assert!(
            matches!(error, ConnectError::Http { status: found, .. } if found == status),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_handshake_without_an_answer_ends_at_the_deadline() {
    let server = Server::start(Request::ignore).await;
    assert_left_at_the_deadline(&server.url("/")).await;
}

#[tokio::test]
async fn an_answer_that_arrives_byte_by_byte_ends_at_the_deadline() {
    let server = Server::start(async |request: Request| {
        let mut stream = request.unanswered();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nX: ".iter().copied();
        for byte in answer.chain(std::iter::repeat(b'x')) {
            if stream.write_u8(byte).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    let server = server.await;
    assert_left_at_the_deadline(&server.url("/")).await;
}

#[tokio::test]
async fn headers_without_end_are_an_error_of_the_handshake() {
    let server = Server::start(async |request: Request| {
        let mut stream = request.unanswered();
        let _ = stream.write_all(b"HTTP/1.1 101 Hello\r\n").await;
        while stream.write_all(b"X: x\r\n").await.is_ok() {}
    });
    let server = server.await;
    let error = connect_error(&server.url("/")).await;
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
}

#[tokio::test]
async fn a_tls_handshake_without_an_answer_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The kernel accepts the connection, and no process reads from it.
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    assert_left_at_the_deadline(&url).await;
}

#[tokio::test]
async fn an_unknown_name_is_an_error_of_dns() {
    // A label of more than 63 characters is invalid, so no name server is asked.
    let host = format!("{}.invalid", "x".repeat(64));
    let error = connect_error(&format!("ws://{host}/")).await;
    assert!(matches!(error, ConnectError::Dns { .. }), "{error}");
    assert!(error.to_string().contains(&host), "{error}");
    assert_eq!(error.advice(), RetryAdvice::Backoff);
}

#[tokio::test]
async fn a_closed_port_is_an_error_of_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = connect_error(&url).await;
    assert!(matches!(error, ConnectError::Tcp { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_an_error_of_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(http("400 Bad Request").as_bytes())
            .await
            .unwrap();
        stream
    };
    let (error, _stream) = tokio::join!(connect_error(&url), server);
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_http_server_is_an_error_of_the_handshake() {
    let server = Server::answering("SSH-2.0-OpenSSH_9.9\r\n\r\n").await;
    let error = connect_error(&server.url("/")).await;
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_another_subprotocol_is_an_error_of_the_handshake() {
    let server = Server::start(async |request: Request| {
        let json = "Sec-WebSocket-Protocol: xrpc.v1.json\r\n";
        let _held = request.upgrade_saying(json).await;
    });
    let server = server.await;
    let error = connect_error(&server.url("/")).await;
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
}
