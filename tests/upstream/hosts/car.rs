//! Transfers of repositories from a host to a spool. Holds invariant 8.5.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::repo::host::{Deadlines, Host, Hosts, HttpHosts};
use huddle_firehose::repo::snapshot::{Limits, Snapshot, Spool, SpoolError};
use simulated_network::mishap::{Endpoint, Mishap};
use test_support::scripted_server::Server;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::network::{Served, did};
use super::{SHORT, SLOT_TIMEOUT, ann, host, hosts, hosts_within};

const LIMIT: Limits = Limits {
    bytes: 16 << 20,
    blocks: 100_000,
};

async fn fetch(hosts: &HttpHosts, host: &Host, did: &Did) -> Result<Spool, SpoolError> {
    let car = hosts.repo(host, did).await.unwrap();
    Spool::read(car, LIMIT, &std::env::temp_dir()).await
}

#[tokio::test]
async fn a_repository_is_fetched_and_verified() {
    let served = Served::start().await;
    for account in served.accounts.iter().filter(|account| account.is_active()) {
        let (host, did) = (served.host.clone(), did(account));
        // Like an actor: the transfer on a task, the rest on a thread that may block.
        let asked = did.clone();
        let fetched = tokio::spawn(async move { fetch(&hosts(), &host, &asked).await });
        let spool = Arc::new(fetched.await.unwrap().unwrap());
        let key = account.repo.key().public_multibase().parse().unwrap();
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let verify = move || Snapshot::verify(&spool, &did, &key, now, |_| true);
        let snapshot = tokio::task::spawn_blocking(verify).await.unwrap().unwrap();
        assert_eq!(snapshot.cid, account.repo.head().unwrap().commit);
    }
}

#[tokio::test]
async fn a_repository_that_is_too_short_or_too_long_is_noticed() {
    let served = Served::start().await;
    let account = did(served.active());
    let spoilt = async |mishap| {
        served.server.misbehave(Endpoint::GetRepo, mishap, 1);
        fetch(&hosts(), &served.host, &account).await.unwrap_err()
    };
    let error = spoilt(Mishap::Truncated).await;
    assert!(matches!(error, SpoolError::Read(_)), "{error}");
    let error = spoilt(Mishap::Oversized(1)).await;
    assert!(matches!(error, SpoolError::Cid { .. }), "{error}");
    let error = spoilt(Mishap::WrongType).await;
    assert!(matches!(error, SpoolError::Truncated { .. }), "{error}");
    assert!(fetch(&hosts(), &served.host, &account).await.is_ok());
}

/// A host that sends the beginning of a repository, and then one byte in each interval, or nothing.
async fn dripping(interval: Option<Duration>) -> Server {
    Server::start(move |request| async move {
        let mut stream = request.unanswered();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n\x3a\xa2";
        stream.write_all(head).await.unwrap();
        while stream.write_all(b"e").await.is_ok() {
            match interval {
                Some(interval) => sleep(interval).await,
                None => std::future::pending().await,
            }
        }
    })
    .await
}

fn reason_of_timeout(fetched: Result<Spool, SpoolError>) -> String {
    match fetched {
        Err(SpoolError::Read(error)) if error.kind() == io::ErrorKind::TimedOut => {
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_host_that_falls_silent_is_given_up() {
    let server = dripping(None).await;
    let hosts = hosts_within(Deadlines {
        silence: SHORT,
        ..SLOT_TIMEOUT
    });
    let fetched = fetch(&hosts, &host(&server.http_url("")), &ann()).await;
    assert_eq!(reason_of_timeout(fetched), format!("no data for {SHORT:?}"));
}

#[tokio::test]
async fn a_slow_host_is_given_up_though_it_is_never_silent() {
    let server = dripping(Some(Duration::from_millis(10))).await;
    let hosts = hosts_within(Deadlines {
        silence: SHORT,
        least_rate: 1 << 20,
        ..SLOT_TIMEOUT
    });
    let car = hosts
        .repo(&host(&server.http_url("")), &ann())
        .await
        .unwrap();
    let car = tokio::io::AsyncReadExt::chain(&[0xff, 0x7f][..], car);
    let fetched = Spool::read(car, LIMIT, &std::env::temp_dir()).await;
    assert_eq!(
        reason_of_timeout(fetched),
        "slower than 1048576 bytes a second"
    );
}

#[tokio::test]
async fn a_transfer_that_takes_too_long_is_given_up() {
    let server = dripping(Some(Duration::from_millis(10))).await;
    let hosts = hosts_within(Deadlines {
        transfer: SHORT,
        ..SLOT_TIMEOUT
    });
    // The slow section is longer than what arrives before the deadline.
    let car = hosts
        .repo(&host(&server.http_url("")), &ann())
        .await
        .unwrap();
    let car = tokio::io::AsyncReadExt::chain(&[0xff, 0x7f][..], car);
    let fetched = Spool::read(car, LIMIT, &std::env::temp_dir()).await;
    assert_eq!(
        reason_of_timeout(fetched),
        format!("not complete within {SHORT:?}")
    );
}

/// What came fast at the beginning allows no slow transfer later.
#[tokio::test]
async fn a_host_that_becomes_slow_is_given_up_however_much_it_has_sent() {
    let server = Server::start(move |request| async move {
        let mut stream = request.unanswered();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.write_all(&vec![b'e'; 8 << 20]).await.unwrap();
        while stream.write_all(b"e").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let hosts = hosts_within(Deadlines {
        silence: SHORT,
        // The beginning would allow more than two hours.
        least_rate: 1 << 10,
        ..SLOT_TIMEOUT
    });
    let mut car = hosts
        .repo(&host(&server.http_url("")), &ann())
        .await
        .unwrap();
    let read = tokio::io::copy(&mut car, &mut tokio::io::sink()).await;
    let error = read.unwrap_err();
    assert_eq!(error.to_string(), "slower than 1024 bytes a second");
}
