//! Requests to hosts, and answers that are invalid. Holds invariant 9.3.

use huddle_firehose::atproto::syntax::{Did, Nsid};
use huddle_firehose::net::http_client::{FetchError, Fetcher, NamedBy};
use huddle_firehose::repo::host::{Deadlines, Host, HostError, Hosts, HttpHosts, Page};
use test_support::scripted_server::{Server, answer};
use tokio::io::AsyncWriteExt;

use super::{SHORT, SLOT_TIMEOUT, ann, host, hosts, hosts_within};

const CID: &str = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm";
const REV: &str = "3jzfcijpj2z2a";

async fn saying(body: &str) -> Server {
    Server::answering(&answer("200 OK", "", body)).await
}

fn is_invalid<T>(answer: Result<T, HostError>) -> bool {
    matches!(answer, Err(HostError::Invalid(_)))
}

#[tokio::test]
async fn each_method_is_requested_by_its_name_below_any_url() {
    let server = saying("{}").await;
    let at = host(&server.http_url("/some/path?query=1#fragment"));
    let did = Did::parse("did:web:example.com%3A80").unwrap();
    let offers = Nsid::parse("com.huddle.slotOffer").unwrap();
    let hosts = hosts();
    hosts.latest_commit(&at, &did).await.unwrap_err();
    hosts.repo_status(&at, &ann()).await.unwrap_err();
    hosts.repo(&at, &ann()).await.map(drop).unwrap();
    let page = hosts.repos_by_collection(&at, &offers, Some("a&b=c")).await;
    assert!(is_invalid(page));
    assert!(is_invalid(hosts.repos(&at, None).await));
    let line = |rest: &str| format!("GET /xrpc/com.atproto.sync.{rest} HTTP/1.1");
    assert_eq!(
        server.request_lines(),
        [
            line("getLatestCommit?did=did%3Aweb%3Aexample.com%253A80"),
            line("getRepoStatus?did=did%3Aplc%3Aann"),
            line("getRepo?did=did%3Aplc%3Aann"),
            line(
                "listReposByCollection?limit=1000&collection=com.huddle.slotOffer&cursor=a%26b%3Dc"
            ),
            line("listRepos?limit=1000"),
        ]
    );
}

#[tokio::test]
async fn a_commit_has_a_cid_and_a_rev() {
    let right = format!(r#"{{"cid":"{CID}","rev":"{REV}"}}"#);
    for (body, is_right) in [
        (right.as_str(), true),
        (&right.replace("bafy", "bafz"), false),
        (&right.replace(REV, "yesterday"), false),
        (r#"{"rev":"3jzfcijpj2z2a"}"#, false),
        ("<!doctype html>", false),
        ("", false),
    ] {
        let server = saying(body).await;
        let latest = hosts()
            .latest_commit(&host(&server.http_url("")), &ann())
            .await;
        assert_eq!(latest.is_ok(), is_right, "{body}");
        assert_ne!(is_invalid(latest), is_right, "{body}");
    }
}

#[tokio::test]
async fn a_status_of_another_repository_is_refused() {
    for (did, is_right) in [("did:plc:ann", true), ("did:plc:bob", false)] {
        let server = saying(&format!(r#"{{"did":"{did}","active":false}}"#)).await;
        let status = hosts()
            .repo_status(&host(&server.http_url("")), &ann())
            .await;
        assert_eq!(status.is_ok(), is_right);
        assert_ne!(is_invalid(status), is_right);
    }
}

#[tokio::test]
async fn an_invalid_did_costs_no_other() {
    let body = r#"{"repos":[{"did":"did:plc:ann"},{"did":"ann"},{"did":"did:plc:bob"}]}"#;
    let server = saying(body).await;
    let page = hosts().repos(&host(&server.http_url("")), None).await;
    let dids = ["did:plc:ann", "did:plc:bob"].map(|did| Did::parse(did).unwrap());
    let (dids, cursor) = (dids.to_vec(), None);
    assert_eq!(page, Ok(Page { dids, cursor }));
}

#[tokio::test]
async fn pages_follow_until_there_is_no_cursor() {
    for (cursor, expected) in [
        (r#","cursor":"next""#, Some("next")),
        (r#","cursor":"""#, None),
    ] {
        let server = saying(&format!(r#"{{"repos":[]{cursor}}}"#)).await;
        let page = hosts()
            .repos(&host(&server.http_url("")), Some("here"))
            .await;
        assert_eq!(page.unwrap().cursor.as_deref(), expected);
    }
    let server = saying(r#"{"repos":[],"cursor":"here"}"#).await;
    let page = hosts()
        .repos(&host(&server.http_url("")), Some("here"))
        .await;
    // The search sees that the cursor repeats, and keeps what the page lists.
    assert_eq!(page.unwrap().cursor.as_deref(), Some("here"));
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|request| async move {
        let mut stream = request.unanswered();
        let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"repos\":[";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[b' '; 1 << 16]).await.is_ok() {}
    })
    .await;
    let page = hosts().repos(&host(&server.http_url("")), None).await;
    assert!(is_invalid(page));
}

#[tokio::test]
async fn an_invalid_answer_is_a_short_error() {
    let nonsense = "x".repeat(100_000);
    let server = saying(&format!(r#"{{"did":"did:plc:ann","active":"{nonsense}"}}"#)).await;
    match hosts()
        .repo_status(&host(&server.http_url("")), &ann())
        .await
    {
        Err(HostError::Invalid(reason)) => assert!(reason.len() <= 256),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_silent_host_is_given_up() {
    let server = Server::start(|request| request.ignore()).await;
    let deadlines = Deadlines {
        answer: SHORT,
        silence: SHORT * 2,
        ..SLOT_TIMEOUT
    };
    let (hosts, at) = (hosts_within(deadlines), host(&server.http_url("")));
    let late = |deadline| Some(HostError::Unavailable(FetchError::Deadline(deadline)));
    assert_eq!(hosts.latest_commit(&at, &ann()).await.err(), late(SHORT));
    assert_eq!(hosts.repo(&at, &ann()).await.err(), late(SHORT * 2));
}

#[tokio::test]
async fn a_host_from_a_did_document_is_not_dialled_at_a_private_address() {
    let server = saying("{}").await;
    let mut at = host(&server.http_url(""));
    at.named = NamedBy::Outsider;
    let private = Some(HostError::Unavailable(FetchError::PrivateAddress(
        "127.0.0.1".to_owned(),
    )));
    assert_eq!(hosts().repo(&at, &ann()).await.err(), private);
    assert_eq!(hosts().repos(&at, None).await.err(), private);
    assert!(server.request_lines().is_empty());
    let allowing = HttpHosts::new(Fetcher::new(true).unwrap(), SLOT_TIMEOUT);
    assert!(allowing.repo(&at, &ann()).await.is_ok());
}

#[tokio::test]
async fn a_relay_may_redirect_to_the_host_but_to_no_private_address() {
    let elsewhere = saying("{}").await;
    let location = format!("location: {}\r\n", elsewhere.http_url("/there"));
    let relay = Server::answering(&answer("302 Found", &location, "")).await;
    let at: Host = host(&relay.http_url(""));
    assert!(matches!(
        hosts().repo(&at, &ann()).await.err(),
        Some(HostError::Unavailable(FetchError::PrivateAddress(_)))
    ));
    let allowing = HttpHosts::new(Fetcher::new(true).unwrap(), SLOT_TIMEOUT);
    assert!(allowing.repo(&at, &ann()).await.is_ok());
    assert_eq!(elsewhere.request_lines(), ["GET /there HTTP/1.1"]);
}

#[tokio::test]
async fn no_compression_is_asked_for_and_a_compressed_answer_is_named() {
    for (header, named) in [
        ("content-encoding: gzip\r\n", Some("gzip")),
        ("content-encoding: identity\r\n", None),
        ("", None),
    ] {
        let server = Server::answering(&answer("200 OK", header, r#"{"repos":[]}"#)).await;
        let page = hosts().repos(&host(&server.http_url("")), None).await;
        let error = page.err().map(|error| error.to_string());
        assert_eq!(error.is_some(), named.is_some(), "{error:?}");
        assert!(
            error
                .unwrap_or_default()
                .contains(named.unwrap_or_default())
        );
        let head = server.heads()[0].to_lowercase();
        assert!(head.contains("accept-encoding: identity"), "{head}");
    }
}
