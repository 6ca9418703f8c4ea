//! Fetches a repository from its host, and verifies it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::host_limiter::{HeadMethod, HostLimiter};
use super::{NoSlot, Repositories};
use crate::atproto::key::{KeyError, SignatureError};
use crate::atproto::syntax::{Did, Tid};
use crate::atproto::verify::VerifyError;
use crate::identity::{Identity, ResolveError};
use crate::net::http_client::{self, NamedBy, is_out_of_descriptors};
use crate::repo::host::{Host, HostError, RepoError};
use crate::repo::snapshot::{
    Limits, READING_MEMORY, Snapshot, SnapshotError, Spool, SpoolError, TRANSFER_MEMORY,
};
use crate::store::StoreError;
use crate::store::repo_store::{DueRepo, HeldRange, JobKind, WaitsFor};

/// Rows that are read at a time.
const ROWS: usize = 500;
/// A method that fails with an error of the server so often in a row is replaced by the next one.
const ATTEMPTS_AT_A_METHOD: u32 = 3;

/// A fetched and verified repository.
pub(super) struct Fetched {
    pub(super) host: Host,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) bytes: u64,
    /// The time of its newest commit, or of the later event that made its account active. It is by
    /// the stream's clock and not the local one, so that it can be compared with the times of
    /// events.
    pub(super) as_of: Timestamp,
}

/// Why a repository could not be fetched, or not be written to the tables.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct FetchFailure {
    /// The last host that was asked, if any.
    pub(super) host: Option<String>,
    /// It is the account's own host.
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
    #[error(transparent)]
    RequestLimiter(#[from] NoSlot),
    #[error("the host has the repository at rev {found}, older than the known rev {known}")]
    Old { found: String, known: String },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the task that reads the repository panicked")]
    ReaderPanicked,
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

    /// How long to wait, if nothing was asked at all: the host or the directory has no slot free, or
    /// refuses requests for now, or this process has no file descriptor left. It is then no failed
    /// attempt.
    pub(super) fn wait(&self) -> Option<Duration> {
        match &self.error {
            FetchError::RequestLimiter(no_slot) => Some(no_slot.wait()),
            FetchError::Identity(error) if self.host.is_none() => error.wait(),
            FetchError::Host(error) => error.wait(),
            // Our own limit, like that of a connection.
            FetchError::Spool(SpoolError::File(error)) if is_out_of_descriptors(error) => {
                http_client::FetchError::NoDescriptor.wait()
            }
            _ => None,
        }
    }

    /// What the repository waits for until the next attempt.
    pub(super) fn waits_for(&self, did: &Did) -> WaitsFor {
        let is_shared = match &self.error {
            FetchError::Identity(error) => error.is_shared(did),
            FetchError::Host(error) => error.wait().is_some(),
            FetchError::Spool(error) => matches!(error, SpoolError::File(_)),
            FetchError::ReaderPanicked | FetchError::Store(_) => true,
            FetchError::Key(_)
            | FetchError::Old { .. }
            | FetchError::RequestLimiter(_)
            | FetchError::Snapshot(_) => false,
        };
        WaitsFor::shared_if(is_shared)
    }

    /// Whether no other host needs to be asked: the answer of an account's own host is final.
    fn is_final(&self) -> bool {
        let is_answer = matches!(
            self.error,
            FetchError::Host(HostError::Repo(_) | HostError::Throttled { .. })
                | FetchError::Identity(_)
                | FetchError::RequestLimiter(_)
        );
        self.is_own_host && is_answer
    }

    /// Whether the repository does not exist, as the PLC directory or the account's own host says.
    pub(super) fn is_gone(&self) -> bool {
        match &self.error {
            FetchError::Identity(error) => !error.is_unknown(),
            FetchError::Host(HostError::Repo(RepoError::NotFound)) => self.is_own_host,
            _ => false,
        }
    }

    /// The account status that its own host gave as the reason.
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
            is_own_host: host.named == NamedBy::Outsider,
            error: error.into(),
        }
    }
}

/// How long no job for this repository can do anything, as far as is known without a request: its
/// directory or its host refuses requests for now. With what it waits for, if that is known.
/// `None` means that a job may start.
pub(super) fn wait(
    repositories: &Repositories,
    kind: JobKind,
    did: &Did,
) -> Option<(Duration, Option<WaitsFor>)> {
    let identities = &repositories.verification.identities;
    let Some(known) = identities.known(did) else {
        return identities.wait(did).map(|wait| (wait, None));
    };
    let identity = known.answer.ok().filter(|_| kind != JobKind::Replay)?;
    let host = own_host(&identity).unwrap_or_else(|| source(repositories));
    let pause = repositories.host_limiters.of(&host.url).long_pause()?;
    Some((pause, Some(WaitsFor::Account)))
}

/// Asks whether the repository is still at the known head: the account's own host, or the source if
/// that gives no answer.
pub(super) async fn is_at_known_head(
    repositories: &Repositories,
    repo: &DueRepo,
) -> Result<bool, FetchFailure> {
    let identity = repositories.verification.identities.get(&repo.did).await?;
    let mut first = None;
    for host in hosts_of(repositories, &identity) {
        match rev_at(repositories, repo, &host).await {
            Ok(Some(found)) => return compare_revs(repo.rev.as_deref(), &found),
            // Only the whole repository shows it.
            Ok(None) => return Ok(false),
            Err(error) => unless_final(&mut first, FetchFailure::at(&host, error))?,
        }
    }
    Err(first_failure(first))
}

fn compare_revs(known: Option<&str>, found: &Tid) -> Result<bool, FetchFailure> {
    match known {
        // The host is behind. A repository that is fetched there would be refused.
        Some(known) if found.as_str() < known => Err(old(found, known).into()),
        known => Ok(known == Some(found.as_str())),
    }
}

/// The rev of the repository's head at `host`; `None` if the host has no method that tells it.
async fn rev_at(
    repositories: &Repositories,
    repo: &DueRepo,
    host: &Host,
) -> Result<Option<Tid>, FetchError> {
    let (hosts, did) = (&repositories.hosts, &repo.did);
    let limiter = repositories.host_limiters.of(&host.url);
    let permit = limiter.enter().await?;
    if limiter.may_have(HeadMethod::RepoStatus) {
        match permit.record(hosts.repo_status(host, did).await) {
            Ok(status) if !status.active => {
                return Err(HostError::from(inactive(status.status.as_deref())).into());
            }
            Ok(status) if status.rev.is_some() => return Ok(status.rev),
            // An active repository without a rev.
            Ok(_) => {}
            Err(error) => unless_useless(&limiter, HeadMethod::RepoStatus, error, repo)?,
        }
    }
    if limiter.may_have(HeadMethod::LatestCommit) {
        match permit.record(hosts.latest_commit(host, did).await) {
            Ok(latest) => return Ok(Some(latest.rev)),
            Err(error) => unless_useless(&limiter, HeadMethod::LatestCommit, error, repo)?,
        }
    }
    Ok(None)
}

/// Returns the error of `method` unless another method has to be asked, because the host does not
/// have this one, or has nothing to say by it.
fn unless_useless(
    limiter: &HostLimiter,
    method: HeadMethod,
    error: HostError,
    repo: &DueRepo,
) -> Result<(), HostError> {
    match &error {
        HostError::NotSupported => limiter.note_lacking(method),
        HostError::Invalid(_) => {}
        // An error of the server may pass. If it does not, it is one of this method.
        HostError::Unavailable(http_client::FetchError::Status { status, .. }) => {
            if *status >= 500 && repo.attempts < ATTEMPTS_AT_A_METHOD {
                return Err(error);
            }
        }
        HostError::Repo(_) | HostError::Throttled { .. } | HostError::Unavailable(_) => {
            return Err(error);
        }
    }
    Ok(())
}

/// The hosts to ask: the account's own one, and then the source if that gives no final answer.
fn hosts_of(
    repositories: &Repositories,
    identity: &Identity,
) -> impl Iterator<Item = Host> + use<> {
    own_host(identity).into_iter().chain([source(repositories)])
}

/// Keeps the first failure, which matters most. Returns a final one as the error.
fn unless_final(
    first: &mut Option<FetchFailure>,
    failure: FetchFailure,
) -> Result<(), FetchFailure> {
    if failure.is_final() {
        return Err(failure);
    }
    first.get_or_insert(failure);
    Ok(())
}

fn first_failure(first: Option<FetchFailure>) -> FetchFailure {
    first.unwrap_or_else(|| HostError::NotSupported.into())
}

/// The error with which a host refuses the repository of an account with this status.
fn inactive(status: Option<&str>) -> RepoError {
    match status {
        Some("deleted") => RepoError::NotFound,
        Some("takendown") => RepoError::Takendown,
        Some("suspended") => RepoError::Suspended,
        _ => RepoError::Deactivated,
    }
}

/// Fetches and verifies a repository: from the account's own host, or from the source if that gives
/// no answer, or lacks records that the tables do not have. What neither brings stays missing, and
/// the repository of the own host counts.
pub(super) async fn fetch(
    repositories: &Repositories,
    repo: &DueRepo,
    identity: &Identity,
) -> Result<Fetched, FetchFailure> {
    let mut first = None;
    let mut incomplete: Option<Fetched> = None;
    for host in hosts_of(repositories, identity) {
        match (
            fetch_from(repositories, repo, identity, &host).await,
            &incomplete,
        ) {
            (Ok(fetched), known) => {
                let is_older = known
                    .as_ref()
                    .is_some_and(|known| fetched.snapshot.commit.rev < known.snapshot.commit.rev);
                if !is_older && brings_all(repositories, &repo.did, &fetched).await? {
                    return Ok(fetched);
                }
                incomplete.get_or_insert(fetched);
            }
            (Err(_), Some(_)) => {}
            (Err(failure), None) => unless_final(&mut first, failure)?,
        }
    }
    incomplete.ok_or_else(|| first_failure(first))
}

/// Whether the tables have all records whose blocks are missing, by the same CIDs.
async fn brings_all(
    repositories: &Repositories,
    did: &Did,
    fetched: &Fetched,
) -> Result<bool, FetchFailure> {
    let missing = &fetched.snapshot.missing;
    let mut missing: BTreeMap<&str, String> = missing
        .iter()
        .map(|(path, cid)| (path.as_str(), cid.to_string()))
        .collect();
    let mut after = String::new();
    while !missing.is_empty() {
        let held = repositories.store.held(HeldRange {
            did,
            after: &after,
            through: None,
            limit: ROWS,
        });
        let held = held.await?;
        for row in &held {
            if missing.get(row.path.as_str()) == row.cid.as_ref() {
                missing.remove(row.path.as_str());
            }
        }
        match held.last() {
            Some(last) => after.clone_from(&last.path),
            None => break,
        }
    }
    Ok(missing.is_empty())
}

async fn fetch_from(
    repositories: &Repositories,
    repo: &DueRepo,
    identity: &Identity,
    host: &Host,
) -> Result<Fetched, FetchFailure> {
    let spool = {
        // The host is asked only when there is memory for its answer. It is returned before the
        // repository is read, so that slow hosts do not keep it from repositories that have arrived.
        let _memory = repositories
            .budget
            .reserve_repository(TRANSFER_MEMORY)
            .await;
        let limiter = repositories.host_limiters.of(&host.url);
        let permit = limiter.enter().await;
        let permit = permit.map_err(|error| FetchFailure::at(host, error))?;
        let car = permit.record(repositories.hosts.repo(host, &repo.did).await);
        let car = car.map_err(|error| FetchFailure::at(host, error))?;
        let spool = Spool::read(car, Limits::default(), &repositories.folder);
        spool.await.map_err(|error| FetchFailure::at(host, error))?
    };
    let bytes = spool.bytes();
    let snapshot = verify(repositories, repo, identity, Arc::new(spool));
    let snapshot = snapshot
        .await
        .map_err(|error| FetchFailure::at(host, error))?;
    Ok(Fetched {
        host: host.clone(),
        bytes,
        as_of: as_of(repo, snapshot.commit.rev.timestamp()),
        snapshot,
    })
}

/// The time of a snapshot: not before the event that made the account active.
fn as_of(repo: &DueRepo, committed_at: Timestamp) -> Timestamp {
    repo.status_as_of
        .map_or(committed_at, |status_as_of| status_as_of.max(committed_at))
}

/// Verifies a repository with the account's key. If another key signed it, verifies with a
/// refreshed one.
async fn verify(
    repositories: &Repositories,
    repo: &DueRepo,
    identity: &Identity,
    spool: Arc<Spool>,
) -> Result<Arc<Snapshot>, FetchError> {
    let mismatch = SignatureError::Mismatch;
    let snapshot = match verify_with(repositories, repo, identity, &spool).await {
        Err(FetchError::Snapshot(SnapshotError::Commit(VerifyError::Signature(error))))
            if error == mismatch =>
        {
            let refreshed = repositories
                .verification
                .identities
                .refresh(&repo.did)
                .await?;
            let identity = refreshed.ok_or(SnapshotError::Commit(error.into()))?;
            verify_with(repositories, repo, &identity, &spool).await?
        }
        verified => verified?,
    };
    let found = snapshot.commit.rev.as_str();
    match repo.rev.as_deref() {
        Some(known) if found < known => Err(old(&snapshot.commit.rev, known)),
        _ => Ok(Arc::new(snapshot)),
    }
}

fn old(found: &Tid, known: &str) -> FetchError {
    FetchError::Old {
        found: found.to_string(),
        known: known.to_owned(),
    }
}

async fn verify_with(
    repositories: &Repositories,
    repo: &DueRepo,
    identity: &Identity,
    spool: &Arc<Spool>,
) -> Result<Snapshot, FetchError> {
    let key = identity.verifying_key()?;
    let (did, spool) = (repo.did.clone(), Arc::clone(spool));
    let interest = repositories.interest().clone();
    let now = repositories.processor.clock.now();
    let memory = repositories.budget.reserve_repository(READING_MEMORY).await;
    let verified = spawn_blocking(move || {
        // A blocking thread goes on when the job has ended.
        let _memory = memory;
        let wants = |collection: &str| interest.wants_collection(collection);
        Snapshot::verify(&spool, &did, &key, now, wants)
    });
    Ok(verified.await.map_err(|_| FetchError::ReaderPanicked)??)
}

/// The host that the account's document names.
pub(super) fn own_host(identity: &Identity) -> Option<Host> {
    identity.pds.clone().map(|url| Host {
        url,
        named: NamedBy::Outsider,
    })
}

/// The source, which mirrors repositories and may say what it holds of accounts.
pub(super) fn source(repositories: &Repositories) -> Host {
    Host {
        url: repositories.source_http.clone(),
        named: NamedBy::Operator,
    }
}
