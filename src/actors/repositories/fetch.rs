//! Gets a repository from where its account lives, and proves it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::Repositories;
use crate::actors::Context;
use crate::hosts::{Host, HostError, RepoError};
use crate::identity::fetch::Named;
use crate::identity::{Identity, ResolveError};
use crate::protocol::key::{KeyError, SignatureError};
use crate::protocol::verify::VerifyError;
use crate::snapshot::{Snapshot, SnapshotError, Spool, SpoolError};
use crate::store::StoreError;
use crate::store::repos::Unsettled;

/// The largest repository that is fetched, in bytes.
const MAX_REPOSITORY: u64 = 4 << 30;

/// A repository that was proven.
pub(super) struct Fetched {
    pub(super) host: Host,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) bytes: u64,
    /// The time of its newest commit, or of the event that made its account active since: by the
    /// clocks of the stream, not by ours, so that it can be compared with the times of events.
    pub(super) as_of: Timestamp,
}

/// Why a repository could not be fetched, or its tables not be written.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct FetchFailure {
    /// The host that was asked last, if any was.
    pub(super) host: Option<String>,
    /// It is the account's own.
    is_own_host: bool,
    error: FetchError,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Identity(#[from] ResolveError),
    #[error("the account's document has {0}")]
    Key(#[from] KeyError),
    #[error("the host has it at {found}, and here it is at {known} already")]
    Old { found: String, known: String },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("its reader broke off")]
    BrokenOff,
}

impl<E: Into<FetchError>> From<E> for FetchFailure {
    fn from(error: E) -> Self {
        Self {
            host: None,
            is_own_host: false,
            error: error.into(),
        }
    }
}

impl FetchFailure {
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match &self.error {
            FetchError::Host(HostError::Throttled { retry_after }) => *retry_after,
            FetchError::Identity(error) => error.retry_after(),
            _ => None,
        }
    }

    pub(super) fn is_throttled(&self) -> bool {
        matches!(self.error, FetchError::Host(HostError::Throttled { .. }))
    }

    /// Neither the directory nor the account's own host know of any such repository.
    pub(super) fn is_gone(&self) -> bool {
        match &self.error {
            FetchError::Identity(error) => !error.is_unknown(),
            FetchError::Host(HostError::Repo(RepoError::NotFound)) => self.is_own_host,
            _ => false,
        }
    }

    /// The status that the account's own host gives as its reason.
    pub(super) fn status(&self) -> Option<&'static str> {
        match &self.error {
            FetchError::Identity(ResolveError::Tombstoned) => Some("deleted"),
            FetchError::Host(HostError::Repo(error)) if self.is_own_host => Some(match error {
                RepoError::Deactivated => "deactivated",
                RepoError::NotFound => "deleted",
                RepoError::Suspended => "suspended",
                RepoError::Takendown => "takendown",
            }),
            _ => None,
        }
    }

    fn at(host: &Host, error: impl Into<FetchError>) -> Self {
        Self {
            host: Some(host.url.to_string()),
            is_own_host: host.named == Named::ByStranger,
            error: error.into(),
        }
    }
}

/// Asks the account's own host whether its repository is where we think it is.
pub(super) async fn is_where_it_was(
    repositories: &Repositories,
    repo: &Unsettled,
) -> Result<bool, FetchFailure> {
    let identity = repositories.verification.identities.get(&repo.did).await?;
    let host = own_host(&identity).unwrap_or_else(|| source(repositories));
    let lane = repositories.lanes.of(&host.url);
    let at_host = |error: HostError| FetchFailure::at(&host, error);
    let _turn = lane.enter().await.map_err(at_host)?;
    let hosts = &repositories.hosts;
    let status = lane
        .heed(hosts.repo_status(&host, &repo.did).await)
        .map_err(at_host)?;
    let rev = match (status.active, status.rev) {
        (false, _) => return Err(at_host(inactive(status.status.as_deref()).into())),
        (true, Some(rev)) => rev,
        (true, None) => {
            let latest = lane.heed(hosts.latest_commit(&host, &repo.did).await);
            latest.map_err(at_host)?.rev
        }
    };
    Ok(repo.rev.as_deref() == Some(rev.as_str()))
}

/// The reason for which a host with this status for an account would not give its repository out.
fn inactive(status: Option<&str>) -> RepoError {
    match status {
        Some("deleted") => RepoError::NotFound,
        Some("takendown") => RepoError::Takendown,
        Some("suspended") => RepoError::Suspended,
        _ => RepoError::Deactivated,
    }
}

/// Fetches and proves a repository: from the account's own host, or where that gives no answer, from
/// the source.
pub(super) async fn fetch(
    context: &Context,
    repositories: &Repositories,
    repo: &Unsettled,
) -> Result<Fetched, FetchFailure> {
    let identity = repositories.verification.identities.get(&repo.did).await?;
    let own = own_host(&identity);
    let is_answer = |failure: &FetchFailure| {
        matches!(
            failure.error,
            FetchError::Host(HostError::Repo(_) | HostError::Throttled { .. })
                | FetchError::Identity(_)
        )
    };
    let mut last = None;
    for host in own.into_iter().chain([source(repositories)]) {
        match fetch_from(context, repositories, repo, &identity, &host).await {
            Ok(fetched) => return Ok(fetched),
            // What an account's own host says of it nobody knows better.
            Err(failure) if failure.is_own_host && is_answer(&failure) => return Err(failure),
            // Of two failures the first one is the one that matters.
            Err(failure) => last = last.or(Some(failure)),
        }
    }
    Err(last.unwrap_or_else(|| HostError::NotSupported.into()))
}

async fn fetch_from(
    context: &Context,
    repositories: &Repositories,
    repo: &Unsettled,
    identity: &Identity,
    host: &Host,
) -> Result<Fetched, FetchFailure> {
    let spool = {
        let lane = repositories.lanes.of(&host.url);
        let at_host = |error: HostError| FetchFailure::at(host, error);
        let _turn = lane.enter().await.map_err(at_host)?;
        let car = lane.heed(repositories.hosts.repo(host, &repo.did).await);
        let spool = Spool::read(car.map_err(at_host)?, MAX_REPOSITORY, &repositories.folder);
        spool.await.map_err(|error| FetchFailure::at(host, error))?
    };
    let bytes = spool.bytes();
    let snapshot = prove(context, repositories, repo, identity, Arc::new(spool));
    let snapshot = snapshot
        .await
        .map_err(|error| FetchFailure::at(host, error))?;
    let committed_at = snapshot.commit.rev.timestamp();
    Ok(Fetched {
        host: host.clone(),
        snapshot,
        bytes,
        as_of: repo
            .status_as_of
            .map_or(committed_at, |status| status.max(committed_at)),
    })
}

/// Proves a repository by the account's key; where that is not the one that has signed, by the one that
/// the account has now.
async fn prove(
    context: &Context,
    repositories: &Repositories,
    repo: &Unsettled,
    identity: &Identity,
    spool: Arc<Spool>,
) -> Result<Arc<Snapshot>, FetchError> {
    let mismatch = SignatureError::Mismatch;
    let snapshot = match verify(context, repo, identity, &spool).await {
        Err(FetchError::Snapshot(SnapshotError::Commit(VerifyError::Signature(error))))
            if error == mismatch =>
        {
            let refreshed = repositories
                .verification
                .identities
                .refresh(&repo.did)
                .await?;
            let identity = refreshed.ok_or(SnapshotError::Commit(error.into()))?;
            verify(context, repo, &identity, &spool).await?
        }
        verified => verified?,
    };
    let found = snapshot.commit.rev.as_str();
    match repo.rev.as_deref() {
        Some(known) if found < known => Err(FetchError::Old {
            found: found.to_owned(),
            known: known.to_owned(),
        }),
        _ => Ok(Arc::new(snapshot)),
    }
}

async fn verify(
    context: &Context,
    repo: &Unsettled,
    identity: &Identity,
    spool: &Arc<Spool>,
) -> Result<Snapshot, FetchError> {
    let key = identity.verifying_key()?;
    let (did, spool) = (repo.did.clone(), Arc::clone(spool));
    let interest = context.rules.interest.clone();
    let verified = spawn_blocking(move || {
        let wants = |collection: &str| interest.wants_collection(collection);
        Snapshot::verify(&spool, &did, &key, Timestamp::now(), wants)
    });
    Ok(verified.await.map_err(|_| FetchError::BrokenOff)??)
}

/// Where the account lives.
pub(super) fn own_host(identity: &Identity) -> Option<Host> {
    identity.pds.clone().map(|url| Host {
        url,
        named: Named::ByStranger,
    })
}

fn source(repositories: &Repositories) -> Host {
    Host {
        url: repositories.source_http.clone(),
        named: Named::ByOperator,
    }
}
