//! The answers of a simulated network's host.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use huddle_firehose::atproto::syntax::{Did, Nsid, Tid};
use huddle_firehose::net::http_client::FetchError;
use huddle_firehose::repo::host::{
    Host, HostError, Hosts, LatestCommit, Page, RepoError, RepoStatus,
};
use simulated_network::account::{Account, Status};
use simulated_network::http::HttpServer;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::record::SLOT_OFFER;
use simulated_network::shape::Shape;
use tokio::io::AsyncReadExt;

use super::{host, hosts};

/// A host and its accounts.
pub(crate) struct Served {
    pub(crate) server: HttpServer,
    pub(crate) host: Host,
    pub(crate) accounts: Vec<Account>,
}

impl Served {
    pub(crate) async fn start() -> Self {
        let shape = Shape {
            accounts: 30,
            ..Shape::default()
        };
        let mut network = Network::new(1, shape);
        // Long enough that some accounts have left in each way.
        network.steps(500);
        let accounts = network.accounts().to_vec();
        let server = HttpServer::start(Arc::new(Mutex::new(network))).await;
        let server = server.unwrap();
        Self {
            host: host(&server.url()),
            server,
            accounts,
        }
    }

    /// An account that is active.
    pub(crate) fn active(&self) -> &Account {
        let mut accounts = self.accounts.iter();
        accounts.find(|account| account.is_active()).unwrap()
    }

    fn dids(&self, is_listed: impl Fn(&Account) -> bool) -> Vec<Did> {
        let accounts = self.accounts.iter().filter(|account| is_listed(account));
        let dids: BTreeSet<Did> = accounts.map(did).collect();
        dids.into_iter().collect()
    }
}

pub(crate) fn did(account: &Account) -> Did {
    Did::parse(&account.did).unwrap()
}

fn repo_error(status: Status) -> HostError {
    let error = match status {
        Status::Deactivated => RepoError::Deactivated,
        Status::Deleted => RepoError::NotFound,
        Status::Suspended => RepoError::Suspended,
        Status::Takendown => RepoError::Takendown,
    };
    error.into()
}

#[tokio::test]
async fn the_latest_commit_is_the_head_of_an_active_repository() {
    let served = Served::start().await;
    for account in &served.accounts {
        let latest = hosts().latest_commit(&served.host, &did(account)).await;
        let head = account.repo.head().unwrap();
        let expected = match account.status {
            Some(status) => Err(repo_error(status)),
            None => Ok(LatestCommit {
                cid: head.commit,
                rev: Tid::parse(&head.rev).unwrap(),
            }),
        };
        assert_eq!(latest, expected);
    }
    for status in Status::ALL.map(Some).into_iter().chain([None]) {
        let mut accounts = served.accounts.iter();
        assert!(accounts.any(|account| account.status == status));
    }
}

#[tokio::test]
async fn every_account_has_a_status() {
    let served = Served::start().await;
    for account in &served.accounts {
        let status = hosts().repo_status(&served.host, &did(account)).await;
        let head = account.repo.head().filter(|_| account.is_active());
        let expected = RepoStatus {
            active: account.is_active(),
            status: account.status.map(|status| status.as_str().to_owned()),
            rev: head.map(|head| Tid::parse(&head.rev).unwrap()),
        };
        assert_eq!(status, Ok(expected));
    }
    let missing = Did::parse("did:plc:missing").unwrap();
    let unknown = hosts().repo_status(&served.host, &missing).await;
    assert_eq!(unknown, Err(RepoError::NotFound.into()));
}

#[tokio::test]
async fn a_repository_is_fetched_unchanged() {
    let served = Served::start().await;
    for account in &served.accounts {
        match (
            hosts().repo(&served.host, &did(account)).await,
            account.status,
        ) {
            (Ok(mut car), None) => {
                let mut bytes = Vec::new();
                car.read_to_end(&mut bytes).await.unwrap();
                assert_eq!(Some(bytes), account.repo.export_car());
            }
            (Err(error), Some(status)) => assert_eq!(error, repo_error(status)),
            (answer, status) => panic!("{:?} of {status:?}", answer.err()),
        }
    }
}

#[tokio::test]
async fn repositories_are_listed() {
    let served = Served::start().await;
    let offers = Nsid::parse(SLOT_OFFER).unwrap();
    let holding = hosts()
        .repos_by_collection(&served.host, &offers, None)
        .await;
    let expected =
        served.dids(|account| account.is_active() && account.repo.has_collection(offers.as_str()));
    assert!(expected.len() > 2);
    let page = |dids| Ok(Page { dids, cursor: None });
    assert_eq!(holding, page(expected));

    let all = hosts().repos(&served.host, None).await;
    let expected = served.dids(|account| account.status != Some(Status::Deleted));
    let behind_the_first = hosts()
        .repos(&served.host, Some(expected[0].as_str()))
        .await;
    assert_eq!(behind_the_first, page(expected[1..].to_vec()));
    assert_eq!(all, page(expected));
}

#[tokio::test]
async fn a_truncated_answer_is_an_error() {
    let served = Served::start().await;
    let endpoint = Endpoint::GetLatestCommit;
    served.server.misbehave(endpoint, Mishap::Truncated, 1);
    let account = did(served.active());
    let latest = hosts().latest_commit(&served.host, &account).await;
    assert!(matches!(
        latest,
        Err(HostError::Unavailable(FetchError::Transport(_)))
    ));
    let latest = hosts().latest_commit(&served.host, &account).await;
    assert!(latest.is_ok());
}

#[tokio::test]
async fn a_redirect_loop_is_an_error() {
    let served = Served::start().await;
    let endpoint = Endpoint::GetRepo;
    served
        .server
        .misbehave(endpoint, Mishap::RedirectLoop, u64::MAX);
    let answer = hosts().repo(&served.host, &did(served.active())).await;
    assert!(matches!(
        answer.err(),
        Some(HostError::Unavailable(FetchError::Redirect(_)))
    ));
}
