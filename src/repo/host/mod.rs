//! Requests to servers about repositories (XRPC, `com.atproto.sync.*`): to the hosts of accounts,
//! to relays, and to relay indexes.
//!
//! Other rooms use [`Hosts`]; [`HttpHosts`] implements it. The answers are not verified here, but
//! they are limited in size and time.

mod car;
mod error;
mod hosting_status;
mod http;

use cid::Cid;
use futures_util::future::BoxFuture;
use tokio::io::AsyncRead;
use url::Url;

pub use error::{HostError, RepoError};
pub(crate) use hosting_status::hosting_status;
pub use http::{Deadlines, HttpHosts};

use crate::atproto::syntax::{Did, Nsid, Tid};
use crate::net::http_client::NamedBy;

/// A server, and the origin of its URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Over HTTP. The path is not used.
    pub url: Url,
    pub named: NamedBy,
}

/// Requests to hosts. Each answer has a deadline. A request may be dropped at any time.
pub trait Hosts: Send + Sync + 'static {
    /// `com.atproto.sync.getRepo`: the CAR, still to be read. Reading fails after a silence that is
    /// too long, or if it takes too long altogether.
    fn repo<'a>(
        &'a self,
        host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<Box<dyn AsyncRead + Send + Unpin>, HostError>>;

    /// `com.atproto.sync.getLatestCommit`.
    fn latest_commit<'a>(
        &'a self,
        host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<LatestCommit, HostError>>;

    /// `com.atproto.sync.getRepoStatus`.
    fn repo_status<'a>(
        &'a self,
        host: &'a Host,
        did: &'a Did,
    ) -> BoxFuture<'a, Result<RepoStatus, HostError>>;

    /// A page of `com.atproto.sync.listReposByCollection`; the first page if there is no cursor.
    fn repos_by_collection<'a>(
        &'a self,
        host: &'a Host,
        collection: &'a Nsid,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>>;

    /// A page of `com.atproto.sync.listRepos`; the first page if there is no cursor.
    fn repos<'a>(
        &'a self,
        host: &'a Host,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>>;
}

/// The newest commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestCommit {
    /// The CID of the commit block.
    pub cid: Cid,
    pub rev: Tid,
}

/// Whether a host serves a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoStatus {
    pub active: bool,
    /// Why it does not, in an open vocabulary (`deleted`, `takendown`, …).
    pub status: Option<String>,
    /// The rev of the newest commit. Only active repositories have it.
    pub rev: Option<Tid>,
}

/// One page of a list of repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// A page may be empty although more pages follow.
    pub dids: Vec<Did>,
    /// The cursor of the next page; `None` after the last one.
    pub cursor: Option<String>,
}
