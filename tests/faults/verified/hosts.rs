//! The network as PLC directory and as the hosts of its accounts, without a socket. It answers with
//! its present state, and fails at times.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use simulated_network::account::{Account, Status};
use simulated_network::http::document;
use simulated_network::network::Network;
use tokio::io::AsyncRead;

use huddle_firehose::atproto::syntax::{Did, Nsid, Tid};
use huddle_firehose::identity::locate::LocateError;
use huddle_firehose::identity::resolve::{Invalid, Unavailable};
use huddle_firehose::identity::{Identity, Resolve, ResolveError};
use huddle_firehose::net::http_client::FetchError;
use huddle_firehose::repo::host::{
    Host, HostError, Hosts, LatestCommit, Page, RepoError, RepoStatus,
};

/// Small, so that there are several pages.
const PAGE: usize = 2;
/// How many of 256 requests fail.
const FAILURES: u8 = 24;

#[derive(Clone)]
pub(crate) struct NetworkHosts {
    network: Arc<Mutex<Network>>,
    rng: Arc<Mutex<Rng>>,
}

impl NetworkHosts {
    pub(crate) fn new(network: Arc<Mutex<Network>>, seed: u64) -> Self {
        Self {
            network,
            rng: Arc::new(Mutex::new(Rng::with_seed(seed))),
        }
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap()
    }

    /// Delays a request, and decides whether it fails.
    async fn travel(&self) -> Option<HostError> {
        let (time, luck) = {
            let mut rng = self.rng.lock().unwrap();
            (Duration::from_millis(rng.u64(1..200)), rng.u8(..))
        };
        tokio::time::sleep(time).await;
        match luck {
            luck if luck >= FAILURES => None,
            luck if luck.is_multiple_of(3) => Some(HostError::Throttled {
                retry_after: Some(Duration::from_secs(2)),
            }),
            luck if luck.is_multiple_of(2) => Some(HostError::Invalid("a riddle".to_owned())),
            _ => Some(FetchError::Deadline(time).into()),
        }
    }

    async fn answer<T>(
        &self,
        did: &Did,
        answer: impl FnOnce(&Account) -> Option<T>,
    ) -> Result<T, HostError> {
        if let Some(error) = self.travel().await {
            return Err(error);
        }
        let network = self.network();
        let account = network.account(did.as_str());
        let answer = account.and_then(answer);
        answer.ok_or(HostError::Repo(RepoError::NotFound))
    }

    /// The page of `dids` after `cursor`.
    fn page(dids: BTreeSet<String>, cursor: Option<&str>) -> Page {
        let behind = |did: &&String| cursor.is_none_or(|cursor| did.as_str() > cursor);
        let rest: Vec<&String> = dids.iter().filter(behind).collect();
        let listed = &rest[..PAGE.min(rest.len())];
        Page {
            dids: listed.iter().map(|did| Did::parse(did).unwrap()).collect(),
            cursor: (rest.len() > PAGE).then(|| listed[PAGE - 1].clone()),
        }
    }

    async fn list(
        &self,
        cursor: Option<&str>,
        is_listed: impl Fn(&Account) -> bool,
    ) -> Result<Page, HostError> {
        if let Some(error) = self.travel().await {
            return Err(error);
        }
        let network = self.network();
        let listed = network
            .accounts()
            .iter()
            .filter(|account| is_listed(account));
        let dids = listed.map(|account| account.did.clone()).collect();
        Ok(Self::page(dids, cursor))
    }
}

/// Why the repository of an inactive account is not served.
fn refusal(account: &Account) -> Option<RepoError> {
    Some(match account.status? {
        Status::Deactivated => RepoError::Deactivated,
        Status::Deleted => RepoError::NotFound,
        Status::Suspended => RepoError::Suspended,
        Status::Takendown => RepoError::Takendown,
    })
}

impl Hosts for NetworkHosts {
    fn repo<'a>(
        &'a self,
        _host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Box<dyn AsyncRead + Send + Unpin>, HostError>> {
        async move {
            let car = self.answer(did, |account| match refusal(account) {
                Some(refusal) => Some(Err(refusal)),
                None => account.repo.export_car().map(Ok),
            });
            let mut car = car.await??;
            let mut rng = self.rng.lock().unwrap();
            if rng.u8(..) < FAILURES {
                car.truncate(rng.usize(..car.len()));
            }
            Ok(Box::new(Cursor::new(car)) as Box<dyn AsyncRead + Send + Unpin>)
        }
        .boxed()
    }

    fn latest_commit<'a>(
        &'a self,
        _host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<LatestCommit, HostError>> {
        async move {
            let latest = self.answer(did, |account| match refusal(account) {
                Some(refusal) => Some(Err(refusal)),
                None => account.repo.head().map(|head| {
                    Ok(LatestCommit {
                        cid: head.commit,
                        rev: Tid::parse(&head.rev).unwrap(),
                    })
                }),
            });
            Ok(latest.await??)
        }
        .boxed()
    }

    fn repo_status<'a>(
        &'a self,
        _host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<RepoStatus, HostError>> {
        self.answer(did, |account| {
            let head = account.repo.head().filter(|_| account.is_active());
            Some(RepoStatus {
                active: account.is_active(),
                status: account.status.map(|status| status.as_str().to_owned()),
                rev: head.map(|head| Tid::parse(&head.rev).unwrap()),
            })
        })
        .boxed()
    }

    fn repos_by_collection<'a>(
        &'a self,
        _host: &'a Host,
        collection: &'a Nsid,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>> {
        self.list(cursor, |account| {
            account.is_active() && account.repo.has_collection(collection.as_str())
        })
        .boxed()
    }

    fn repos<'a>(
        &'a self,
        _host: &'a Host,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>> {
        self.list(cursor, |account| account.repo.head().is_some())
            .boxed()
    }
}

impl Resolve for NetworkHosts {
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>> {
        async move {
            if self.travel().await.is_some() {
                return Err(Unavailable::Interrupted.into());
            }
            let document = {
                let network = self.network();
                let account = network.account(did.as_str());
                account.map(|account| document(account, "https://host.test"))
            };
            // The only other DID is one that the hostile relay makes up, and it has no valid form.
            let invalid = || ResolveError::from(Invalid::from(LocateError::Plc));
            let json = document.ok_or_else(invalid)?.to_string();
            Ok(Identity::parse(did, json.as_bytes()).expect("the network's documents are valid"))
        }
        .boxed()
    }
}
