//! Sends requests to hosts over HTTP.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio::time::timeout;
use url::Url;

use super::{Host, HostError, Hosts, LatestCommit, Page, RepoStatus, car};
use crate::atproto::car::is_address;
use crate::atproto::syntax::{Did, Nsid, RecordKey, StatusWord, Tid};
use crate::net::http_client::{FetchError, Fetcher, read_whole};

/// The longest JSON answer, in bytes. An entry of a page has about 200 bytes.
const MAX_ANSWER: usize = 4 << 20;

/// The longest answer with a record: the record itself, the commit, and the nodes between them.
const MAX_RECORD_ANSWER: usize = 2 << 20;

/// The number of repositories to request for a page. All methods allow this number.
const PAGE: &str = "1000";

/// The longest cursor of a page, in bytes. It is stored.
const MAX_CURSOR: usize = 4 << 10;

/// Hosts, reached with a [`Fetcher`].
#[derive(Clone, Debug)]
pub struct HttpHosts {
    fetcher: Fetcher,
    deadlines: Deadlines,
}

/// How long a host may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a complete answer that is not a CAR.
    pub answer: Duration,
    /// For a CAR to begin, and for each pause in it.
    pub silence: Duration,
    /// For a complete CAR, from its beginning.
    pub transfer: Duration,
    /// The lowest rate of a CAR in bytes a second, after the first `silence`.
    pub least_rate: u64,
}

#[derive(Deserialize)]
struct LatestCommitAnswer {
    cid: String,
    rev: Tid,
}

#[derive(Deserialize)]
struct RepoStatusAnswer {
    did: Did,
    active: bool,
    status: Option<String>,
    rev: Option<Tid>,
}

#[derive(Deserialize)]
struct PageAnswer {
    repos: Vec<Listed>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    did: String,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            transfer: Duration::from_secs(60 * 60),
            least_rate: 64 << 10,
        }
    }
}

// === impl HttpHosts ===

impl HttpHosts {
    pub fn new(fetcher: Fetcher, deadlines: Deadlines) -> Self {
        Self { fetcher, deadlines }
    }

    /// `com.atproto.sync.getRecord`: a CAR, which is not verified yet.
    ///
    /// # Errors
    /// If there is no answer, or one that is too long.
    pub async fn record(
        &self,
        host: &Host,
        did: &Did,
        collection: &Nsid,
        rkey: &RecordKey,
    ) -> Result<Bytes, HostError> {
        let query = [
            ("did", did.as_str()),
            ("collection", collection.as_str()),
            ("rkey", rkey.as_str()),
        ];
        let answer = async {
            let response = self.get(host, "getRecord", &query).await?;
            Ok(read_whole(response.into_body(), MAX_RECORD_ANSWER).await?)
        };
        within(self.deadlines.answer, answer).await
    }

    async fn latest_commit(&self, host: &Host, did: &Did) -> Result<LatestCommit, HostError> {
        let query = [("did", did.as_str())];
        let LatestCommitAnswer { cid, rev } = self.ask(host, "getLatestCommit", &query).await?;
        let cid: Cid = cid.parse().map_err(HostError::invalid)?;
        match is_address(&cid) {
            true => Ok(LatestCommit { cid, rev }),
            false => Err(HostError::invalid("the CID is not that of a commit")),
        }
    }

    async fn repo_status(&self, host: &Host, did: &Did) -> Result<RepoStatus, HostError> {
        let query = [("did", did.as_str())];
        let answer: RepoStatusAnswer = self.ask(host, "getRepoStatus", &query).await?;
        if answer.did != *did {
            return Err(HostError::invalid("the status is of another repository"));
        }
        Ok(RepoStatus {
            active: answer.active,
            status: answer
                .status
                .and_then(|status| StatusWord::parse(&status).ok())
                .map(String::from),
            rev: answer.rev,
        })
    }

    async fn page(
        &self,
        host: &Host,
        method: &str,
        collection: Option<&Nsid>,
        cursor: Option<&str>,
    ) -> Result<Page, HostError> {
        let collection = collection.map(|collection| ("collection", collection.as_str()));
        let from = cursor.map(|cursor| ("cursor", cursor));
        let query: Vec<_> = [Some(("limit", PAGE)), collection, from]
            .into_iter()
            .flatten()
            .collect();
        let answer: PageAnswer = self.ask(host, method, &query).await?;
        let next = answer.cursor.filter(|next| !next.is_empty());
        if next.as_ref().is_some_and(|next| next.len() > MAX_CURSOR) {
            return Err(HostError::invalid("the next cursor is too long"));
        }
        let listed = answer.repos.iter();
        Ok(Page {
            dids: listed
                .filter_map(|repo| Did::parse(&repo.did).ok())
                .collect(),
            cursor: next,
        })
    }

    /// Requests a JSON answer.
    async fn ask<T>(
        &self,
        host: &Host,
        method: &str,
        query: &[(&str, &str)],
    ) -> Result<T, HostError>
    where
        T: DeserializeOwned,
    {
        let answer = async {
            let response = self.get(host, method, query).await?;
            let body = read_whole(response.into_body(), MAX_ANSWER).await;
            body.map_err(|error| match error {
                FetchError::TooLarge { .. } => HostError::invalid(error),
                error => error.into(),
            })
        };
        let body: Bytes = within(self.deadlines.answer, answer).await?;
        serde_json::from_slice(&body).map_err(HostError::invalid)
    }

    /// Requests an answer, and returns an error unless its status is 200.
    async fn get(
        &self,
        host: &Host,
        method: &str,
        query: &[(&str, &str)],
    ) -> Result<Response<Incoming>, HostError> {
        let url = endpoint(host, method, query);
        let response = self.fetcher.ask(&url, host.named).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(HostError::of(response).await),
        }
    }
}

impl Hosts for HttpHosts {
    fn repo<'a>(
        &'a self,
        host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Box<dyn AsyncRead + Send + Unpin>, HostError>> {
        async move {
            let silence = self.deadlines.silence;
            let query = [("did", did.as_str())];
            let response = within(silence, self.get(host, "getRepo", &query)).await?;
            let car = car::reader(response.into_body(), self.deadlines);
            Ok(Box::new(car) as Box<dyn AsyncRead + Send + Unpin>)
        }
        .boxed()
    }

    fn latest_commit<'a>(
        &'a self,
        host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<LatestCommit, HostError>> {
        self.latest_commit(host, did).boxed()
    }

    fn repo_status<'a>(
        &'a self,
        host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<RepoStatus, HostError>> {
        self.repo_status(host, did).boxed()
    }

    fn repos_by_collection<'a>(
        &'a self,
        host: &'a Host,
        collection: &'a Nsid,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>> {
        self.page(host, "listReposByCollection", Some(collection), cursor)
            .boxed()
    }

    fn repos<'a>(
        &'a self,
        host: &'a Host,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>> {
        self.page(host, "listRepos", None, cursor).boxed()
    }
}

async fn within<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    let late = |_| HostError::Unavailable(FetchError::Deadline(deadline));
    timeout(deadline, answer).await.map_err(late)?
}

fn endpoint(host: &Host, method: &str, query: &[(&str, &str)]) -> Url {
    let mut url = host.url.clone();
    url.set_path(&format!("/xrpc/com.atproto.sync.{method}"));
    url.set_fragment(None);
    url.query_pairs_mut().clear().extend_pairs(query);
    url
}
