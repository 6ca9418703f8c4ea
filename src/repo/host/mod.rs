//! What servers say of the repositories that they have: the hosts where accounts live, relays, and
//! directories of collections (XRPC, `com.atproto.sync.*`).
//!
//! Others ask through [`Hosts`]; [`HttpHosts`] is how it is done. Nothing that a host says is verified
//! here, but all of it is held within bounds and deadlines.

mod car;
mod error;
mod http;

use cid::Cid;
use futures_util::future::BoxFuture;
use tokio::io::AsyncRead;
use url::Url;

pub use error::{HostError, RepoError};
pub use http::{Deadlines, HttpHosts};

use crate::atproto::syntax::{Did, Nsid, Tid};
use crate::net::http_client::NamedBy;

/// A server, and who named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Over HTTP. Its path does not matter.
    pub url: Url,
    pub named: NamedBy,
}

/// Asks hosts. Each answer comes within a deadline; what is asked may be dropped at any time.
pub trait Hosts: Send + Sync + 'static {
    /// `com.atproto.sync.getRepo`: the CAR, still to be read. Reading fails where it is silent for too
    /// long, or takes too long altogether.
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

    /// A page of `com.atproto.sync.listReposByCollection`; the first one where there is no cursor.
    fn repos_by_collection<'a>(
        &'a self,
        host: &'a Host,
        collection: &'a Nsid,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>>;

    /// A page of `com.atproto.sync.listRepos`; the first one where there is no cursor.
    fn repos<'a>(
        &'a self,
        host: &'a Host,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, HostError>>;
}

/// The newest commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestCommit {
    /// Of the commit block.
    pub cid: Cid,
    pub rev: Tid,
}

/// Whether a host gives a repository out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoStatus {
    pub active: bool,
    /// Why it does not, in an open vocabulary (`deleted`, `takendown`, …).
    pub status: Option<String>,
    /// Of the newest commit. Only active repositories have it.
    pub rev: Option<Tid>,
}

/// Some of many repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// A page may be empty and not the last one.
    pub dids: Vec<Did>,
    /// What to ask for the next page with; `None` behind the last one.
    pub cursor: Option<String>,
}
