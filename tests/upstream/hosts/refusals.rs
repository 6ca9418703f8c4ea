//! The meaning of a host's refusals.

use std::time::Duration;

use huddle_firehose::net::http_client::FetchError;
use huddle_firehose::repo::host::{HostError, Hosts, RepoError};
use jiff::Timestamp;
use test_support::scripted_server::{Server, answer};
use tokio::io::AsyncWriteExt;

use super::{ann, host, hosts};

/// The error for this refusal. Asserts that every method gives the same one.
async fn refused(status: &str, headers: &str, body: &str) -> HostError {
    let server = Server::answering(&answer(status, headers, body)).await;
    let at = host(&server.http_url(""));
    let latest = hosts().latest_commit(&at, &ann()).await.unwrap_err();
    let repo = hosts().repo(&at, &ann()).await.err().unwrap();
    // Times may differ by the moment between them.
    assert_eq!(
        std::mem::discriminant(&repo),
        std::mem::discriminant(&latest)
    );
    latest
}

fn error(name: &str) -> String {
    format!(r#"{{"error":"{name}","message":"no"}}"#)
}

fn status(status: u16) -> HostError {
    HostError::Unavailable(FetchError::Status {
        status,
        retry_after: None,
    })
}

#[tokio::test]
async fn the_name_of_an_error_says_why_an_account_is_not_served() {
    for (name, expected) in [
        ("RepoDeactivated", RepoError::Deactivated),
        ("RepoNotFound", RepoError::NotFound),
        ("RepoSuspended", RepoError::Suspended),
        ("RepoTakendown", RepoError::Takendown),
    ] {
        for status in ["400 Bad Request", "403 Forbidden", "404 Not Found"] {
            assert_eq!(refused(status, "", &error(name)).await, expected.into());
        }
    }
}

#[tokio::test]
async fn a_host_may_not_know_the_method() {
    for (status, body) in [
        ("501 Not Implemented", error("MethodNotImplemented")),
        ("501 Not Implemented", String::new()),
        ("400 Bad Request", error("MethodNotImplemented")),
        // The reference server, without and with a service to which it forwards unknown methods.
        (
            "400 Bad Request",
            r#"{"error":"InvalidRequest","message":"No service configured for com.atproto.sync.listReposByCollection"}"#.to_owned(),
        ),
        ("400 Bad Request", error("UnknownMethod")),
        ("404 Not Found", error("MethodNotFound")),
        (
            "404 Not Found",
            r#"{"error":"InvalidRequest","message":"unknown method com.atproto.sync.getRepoStatus"}"#.to_owned(),
        ),
        ("404 Not Found", error("NotFound")),
        ("405 Method Not Allowed", String::new()),
        ("401 Unauthorized", error("AuthMissing")),
        ("404 Not Found", error("XRPCNotSupported")),
        ("404 Not Found", r#"{"message":"Not Found"}"#.to_owned()),
        ("404 Not Found", "<!doctype html>".to_owned()),
        ("404 Not Found", "x".repeat(1 << 16)),
    ] {
        let refused = refused(status, "", &body).await;
        assert_eq!(refused, HostError::NotSupported, "{status}");
    }
}

#[tokio::test]
async fn the_retry_after_of_a_busy_host_is_kept() {
    let throttled = |seconds: Option<u64>| HostError::Throttled {
        retry_after: seconds.map(Duration::from_secs),
    };
    for (status, headers, expected) in [
        ("429 Too Many Requests", "retry-after: 17\r\n", Some(17)),
        ("429 Too Many Requests", "retry-after: 86400\r\n", Some(900)),
        ("429 Too Many Requests", "", None),
        ("503 Service Unavailable", "retry-after: 3\r\n", Some(3)),
    ] {
        let refused = refused(status, headers, &error("RateLimitExceeded")).await;
        assert_eq!(refused, throttled(expected));
    }
    let plain = refused("503 Service Unavailable", "", "").await;
    assert_eq!(plain, status(503));
}

#[tokio::test]
async fn the_end_of_a_rate_limit_window_is_kept() {
    let now = Timestamp::now().as_second();
    for (reset, range) in [
        (now + 100, 80..=100),
        (now + 100_000, 900..=900),
        (now - 100, 0..=0),
    ] {
        let headers = format!("ratelimit-reset: {reset}\r\n");
        match refused("429 Too Many Requests", &headers, "").await {
            HostError::Throttled {
                retry_after: Some(rest),
            } => assert!(range.contains(&rest.as_secs()), "{rest:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn any_other_refusal_does_not_describe_the_repository() {
    for (line, expected) in [
        ("204 No Content", 204),
        ("400 Bad Request", 400),
        ("401 Unauthorized", 401),
        ("500 Internal Server Error", 500),
        ("502 Bad Gateway", 502),
    ] {
        let body = match expected {
            204 => String::new(),
            _ => error("SomethingElse"),
        };
        assert_eq!(refused(line, "", &body).await, status(expected));
    }
    assert_eq!(
        refused("404 Not Found", "", &error("Other")).await,
        status(404)
    );
}

#[tokio::test]
async fn a_truncated_refusal_is_no_answer() {
    let server = Server::start(|request| async move {
        let mut stream = request.unanswered();
        let half = b"HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\n{\"error\":";
        stream.write_all(half).await.unwrap();
    })
    .await;
    let latest = hosts()
        .latest_commit(&host(&server.http_url("")), &ann())
        .await;
    assert!(matches!(
        latest,
        Err(HostError::Unavailable(FetchError::Transport(_)))
    ));
}
