//! One job for one repository.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::{self, FetchFailure};
use super::isolation::Progress;
use super::replay::{self, Drained};
use super::{REFUSED_RETRY_MIN, Repositories, compare, in_future, retry_at, retry_delay};
use crate::identity::ResolveError;
use crate::model::Resynced;
use crate::repo::snapshot::READING_MEMORY;
use crate::store::StoreError;
use crate::store::plan::REST;
use crate::store::repo_store::{
    DueRepo, JobKind, RecentResyncs, RepoChange, RepoEvent, Resync, ResyncCause, ResyncFailure,
    WaitsFor,
};
use crate::telemetry::rate_limit::SharedRateLimit;

/// The shortest time between two log lines about repositories of the same kind.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// The longest delay before a failed replay or recheck is retried. It is short because events wait.
const QUESTION_RETRY_MAX: Duration = Duration::from_secs(300);
/// The number of fetches of a repository in an hour before it has to wait. Each `BYTES_PER_FETCH`
/// count as another fetch.
const FETCHES_PER_HOUR: u64 = 20;
const BYTES_PER_FETCH: u64 = 4 << 20;
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// The wait for each fetch beyond that.
const WAIT_PER_FETCH: SignedDuration = SignedDuration::from_secs(30);

/// The pause of a job that had to yield its slot. The time that it took decides when it starts again.
const YIELD_PAUSE: Duration = Duration::from_secs(2);

/// Runs the job for `repo`. A failure is recorded in the tables, and logged. If `yields` is
/// cancelled, a job that waits for a server is put off.
///
/// # Errors
/// If the tables cannot be written. They keep the repository as it was.
pub(super) async fn run(
    repositories: &Repositories,
    kind: JobKind,
    repo: &DueRepo,
    yields: &CancellationToken,
) -> Result<Progress, StoreError> {
    let interest = repositories.interest();
    if !interest.wants_did(repo.did.as_str()) {
        repositories.note(&repo.did, RepoEvent::Untrack).await?;
        return Ok(Progress::Done);
    }
    // A due repository is tracked from now on, so that all of its commits are read, also before one
    // arrives.
    if let Some(tracked) = interest.tracked() {
        tracked.insert(repo.did.as_str());
    }
    if !repo.is_active {
        let until = Timestamp::now().saturating_add(REST);
        let until = until.unwrap_or(Timestamp::MAX);
        repositories
            .note(&repo.did, RepoEvent::Suspend { until })
            .await?;
        return Ok(Progress::DueAgain);
    }
    if repo.was_verified {
        repositories
            .verification
            .identities
            .assume_document(&repo.did);
    }
    if let Some(wait) = repositories.shares.wait(&repo.did, Instant::now()) {
        return reschedule(repositories, repo, wait, Some(WaitsFor::Account)).await;
    }
    if let Some((wait, waits_for)) = fetch::wait(repositories, kind, &repo.did) {
        return reschedule(repositories, repo, wait, waits_for).await;
    }
    match kind {
        // What was replayed and compared so far is in the tables.
        JobKind::Replay => tokio::select! {
            done = replay_parked_commits(repositories, repo) => done,
            () = yields.cancelled() => yield_slot(repositories, repo).await,
        },
        JobKind::Recheck => tokio::select! {
            compared = compare_heads(repositories, repo, ResyncCause::Gap) => Ok(match compared? {
                Compared::Equal | Compared::Different => Progress::Done,
                Compared::Unknown => Progress::DueAgain,
            }),
            () = yields.cancelled() => yield_slot(repositories, repo).await,
        },
        JobKind::Resync | JobKind::Backfill => resync(repositories, repo, yields).await,
    }
}

/// Puts a job off that had to yield its slot to others.
async fn yield_slot(repositories: &Repositories, repo: &DueRepo) -> Result<Progress, StoreError> {
    if let Some(suppressed) = repositories.log.yields.admit() {
        tracing::info!(
            did = %repo.did, suppressed = nonzero(suppressed),
            "a job had to yield its slot to others; what waits for it is kept, and it starts again with more time"
        );
    }
    // That it yields does not tell what it waits for.
    reschedule(repositories, repo, YIELD_PAUSE, None).await
}

/// Replays parked commits. If one breaks the chain, the tables have the repository fetched next.
async fn replay_parked_commits(
    repositories: &Repositories,
    repo: &DueRepo,
) -> Result<Progress, StoreError> {
    let mut drained = replay::drain(repositories, &repo.did, false).await?;
    if let Drained::Disputed { known_rev } = drained {
        let repo = DueRepo {
            rev: known_rev,
            ..repo.clone()
        };
        match compare_heads(repositories, &repo, ResyncCause::Disputed).await? {
            Compared::Equal => {}
            Compared::Different => return Ok(Progress::Done),
            Compared::Unknown => return Ok(Progress::DueAgain),
        }
        drained = replay::drain(repositories, &repo.did, true).await?;
    }
    match drained {
        Drained::Empty => {
            repositories
                .note(&repo.did, RepoEvent::FinishReplay)
                .await?;
            Ok(Progress::Done)
        }
        Drained::Ended | Drained::Broken | Drained::Disputed { .. } => Ok(Progress::Done),
        Drained::Early => {
            let until = retry_at(repo.attempts, None);
            retry_later(repositories, repo, until, WaitsFor::Account).await
        }
        Drained::Unknown { error } => wait_for_identity(repositories, repo, &error).await,
    }
}

/// How the repository's head compares with its host's.
enum Compared {
    Equal,
    Different,
    /// The comparison is due again.
    Unknown,
}

/// Compares the repository's head with its host. If they differ, it has to be fetched because of
/// `cause`.
async fn compare_heads(
    repositories: &Repositories,
    repo: &DueRepo,
    cause: ResyncCause,
) -> Result<Compared, StoreError> {
    match fetch::is_at_known_head(repositories, repo).await {
        Ok(true) => {
            let recheck_cause = repo.recheck_cause;
            let event = RepoEvent::ConfirmRecheck { recheck_cause };
            repositories.note(&repo.did, event).await?;
            Ok(Compared::Equal)
        }
        Ok(false) => {
            let event = RepoEvent::RequestResync { cause };
            repositories.note(&repo.did, event).await?;
            Ok(Compared::Different)
        }
        Err(failure) => match failure.wait() {
            Some(wait) => {
                let waits_for = failure.waits_for(&repo.did);
                reschedule(repositories, repo, wait, Some(waits_for))
                    .await
                    .map(|_due_again| Compared::Unknown)
            }
            None => {
                tracing::debug!(did = %repo.did, error = %failure, "repository recheck failed; retrying later");
                note_status(repositories, repo, &failure).await?;
                let until = retry_after_failure(repositories, repo, &failure);
                retry_later(repositories, repo, until, failure.waits_for(&repo.did))
                    .await
                    .map(|_due_again| Compared::Unknown)
            }
        },
    }
}

/// Fetches a repository, and makes the tables equal to it.
async fn resync(
    repositories: &Repositories,
    repo: &DueRepo,
    yields: &CancellationToken,
) -> Result<Progress, StoreError> {
    let store = &repositories.store;
    // The text of another version is no cause that this one knows. Only an operator's request may
    // exceed the hourly limit.
    let cause = repo.cause.unwrap_or(ResyncCause::Gap);
    let started_at = Timestamp::now();
    let hour_ago = started_at.saturating_sub(HOUR).unwrap_or(Timestamp::MIN);
    let recent = store.resyncs_since(&repo.did, hour_ago).await?;
    let allowed_at = allowed_at(&recent).filter(|allowed_at| *allowed_at > started_at);
    if let Some(allowed_at) = allowed_at
        && cause != ResyncCause::Operator
    {
        let event = RepoEvent::Reschedule {
            until: allowed_at,
            waits_for: Some(WaitsFor::Account),
        };
        repositories.note(&repo.did, event).await?;
        return Ok(Progress::DueAgain);
    }
    // Without the account's key and host nothing is fetched, so it is no attempt.
    let looked_up = tokio::select! {
        looked_up = repositories.verification.identities.get(&repo.did) => looked_up,
        () = yields.cancelled() => return yield_slot(repositories, repo).await,
    };
    let identity = match looked_up {
        Err(error) if error.is_unknown() => {
            note_unknown(repositories, repo, &error);
            return wait_for_identity(repositories, repo, &error).await;
        }
        identity => identity,
    };
    repositories.note(&repo.did, RepoEvent::BeginResync).await?;
    let fetched = match identity {
        Ok(identity) => tokio::select! {
            fetched = fetch::fetch(repositories, repo, &identity) => fetched,
            // A fetched repository is written in any case.
            () = yields.cancelled() => return yield_slot(repositories, repo).await,
        },
        Err(error) => Err(error.into()),
    };
    let (host, outcome) = match fetched {
        Ok(fetched) => {
            let host = Some(fetched.host.url.to_string());
            let budget = &repositories.budget;
            let _memory = budget.reserve_repository(READING_MEMORY).await;
            let compared = compare::write(repositories, &repo.did, &fetched).await;
            (host, compared)
        }
        Err(failure) => match failure.wait() {
            Some(wait) => {
                let waits_for = failure.waits_for(&repo.did);
                return reschedule(repositories, repo, wait, Some(waits_for)).await;
            }
            None => (failure.host.clone(), Err(failure)),
        },
    };
    note_outcome(repositories, repo, cause, &outcome);
    if let Err(failure) = &outcome {
        note_status(repositories, repo, failure).await?;
    }
    let progress = match outcome {
        Ok(_) => Progress::Done,
        Err(_) => Progress::DueAgain,
    };
    let resync = Resync {
        did: repo.did.clone(),
        cause,
        host,
        started_at,
        outcome: outcome.map_err(|failure| ResyncFailure {
            error: failure.to_string(),
            is_throttled: failure.is_throttled(),
            is_gone: failure.is_gone(),
            waits_for: failure.waits_for(&repo.did),
            retry_at: retry_after_failure(repositories, repo, &failure),
        }),
    };
    repositories
        .note(&resync.did, RepoEvent::EndResync(&resync))
        .await?;
    Ok(progress)
}

/// When a job that failed is retried.
fn retry_after_failure(
    repositories: &Repositories,
    repo: &DueRepo,
    failure: &FetchFailure,
) -> Timestamp {
    if !failure.is_throttled() {
        return retry_at(repo.attempts, failure.retry_after());
    }
    let delay = retry_delay(REFUSED_RETRY_MIN, repo.attempts, failure.retry_after());
    repositories.wake_after(delay);
    in_future(delay)
}

/// Returns when a repository may be fetched again after its recent fetches; `None` means at once.
///
/// Without this limit, a repository whose chain breaks each time (because its server leaves
/// something out, or an outsider forges commits) would be fetched again and again.
fn allowed_at(recent: &RecentResyncs) -> Option<Timestamp> {
    let spent = u64::from(recent.count) + recent.bytes / BYTES_PER_FETCH;
    let beyond = spent.checked_sub(FETCHES_PER_HOUR)?;
    let beyond = i32::try_from(beyond).unwrap_or(i32::MAX).saturating_add(1);
    let wait = WAIT_PER_FETCH.saturating_mul(beyond).min(HOUR);
    recent.last_ended_at?.checked_add(wait).ok()
}

async fn retry_later(
    repositories: &Repositories,
    repo: &DueRepo,
    until: Timestamp,
    waits_for: WaitsFor,
) -> Result<Progress, StoreError> {
    let until = until.min(in_future(QUESTION_RETRY_MAX));
    repositories
        .note(&repo.did, RepoEvent::RetryLater { until, waits_for })
        .await?;
    Ok(Progress::DueAgain)
}

/// Logs that a fetch has to wait for the identity of its account.
fn note_unknown(repositories: &Repositories, repo: &DueRepo, error: &ResolveError) {
    if error.wait().is_none()
        && let Some(suppressed) = repositories.log.failures.admit()
    {
        tracing::warn!(
            did = %repo.did, attempts = repo.attempts + 1, %error, suppressed = nonzero(suppressed),
            "identity unknown; the repository is fetched when the look-up succeeds, retrying later"
        );
    }
}

/// Retries a job whose account has no known key and host for now.
async fn wait_for_identity(
    repositories: &Repositories,
    repo: &DueRepo,
    error: &ResolveError,
) -> Result<Progress, StoreError> {
    let waits_for = WaitsFor::shared_if(error.is_shared(&repo.did));
    match error.wait() {
        Some(wait) => reschedule(repositories, repo, wait, Some(waits_for)).await,
        None => {
            let until = retry_at(repo.attempts, error.retry_after());
            retry_later(repositories, repo, until, waits_for).await
        }
    }
}

/// Puts the job off, because nothing can be asked now. It is no attempt.
async fn reschedule(
    repositories: &Repositories,
    repo: &DueRepo,
    wait: Duration,
    waits_for: Option<WaitsFor>,
) -> Result<Progress, StoreError> {
    let until = in_future(wait);
    repositories
        .note(&repo.did, RepoEvent::Reschedule { until, waits_for })
        .await?;
    repositories.wake_after(wait);
    Ok(Progress::DueAgain)
}

/// If the account's own host reports the account as inactive, stores that status as a suspicion,
/// so that the host is asked about it.
async fn note_status(
    repositories: &Repositories,
    repo: &DueRepo,
    failure: &FetchFailure,
) -> Result<(), StoreError> {
    match failure.status() {
        Some(status) => {
            let did = &repo.did;
            let change = RepoChange::HostRefused { did, status };
            repositories.store.change(change).await?;
            // The account may have moved, so the next attempt asks the host that its document names
            // now. Without a document there is nothing new to know.
            let _unless_unknown = repositories.verification.identities.refresh(did).await;
            Ok(())
        }
        None => Ok(()),
    }
}

/// Counts and logs the outcome. Every fetch has a row in the tables, so the log is limited to one
/// line in each interval.
fn note_outcome(
    repositories: &Repositories,
    repo: &DueRepo,
    cause: ResyncCause,
    outcome: &Result<Resynced, FetchFailure>,
) {
    match outcome {
        Ok(done) => {
            repositories.metrics.resynced(done);
            if let Some(suppressed) = repositories.log.done.admit() {
                tracing::info!(
                    did = %repo.did, cause = cause.as_str(), created = nonzero(done.created),
                    updated = nonzero(done.updated), deleted = nonzero(done.deleted),
                    missing = nonzero(done.missing), suppressed = nonzero(suppressed), "repository fetched"
                );
            }
        }
        Err(failure) => {
            let is_throttled = failure.is_throttled();
            repositories
                .metrics
                .failed_resyncs(is_throttled)
                .increment(1);
            if let Some(suppressed) = repositories.log.failures.admit() {
                tracing::warn!(
                    did = %repo.did, cause = cause.as_str(), host = failure.host, attempts = repo.attempts + 1,
                    error = %failure, suppressed = nonzero(suppressed),
                    "repository fetch failed; retrying later"
                );
            }
        }
    }
}

/// A count for the log, which leaves zeros out.
fn nonzero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

/// Limits the log lines about repositories.
pub struct JobLog {
    done: SharedRateLimit,
    failures: SharedRateLimit,
    yields: SharedRateLimit,
}

impl Default for JobLog {
    fn default() -> Self {
        Self {
            done: SharedRateLimit::new(LOG_INTERVAL),
            failures: SharedRateLimit::new(LOG_INTERVAL),
            yields: SharedRateLimit::new(LOG_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_after(count: u32, bytes: u64) -> Option<i64> {
        let recent = RecentResyncs {
            count,
            bytes,
            last_ended_at: Some(Timestamp::UNIX_EPOCH),
        };
        allowed_at(&recent).map(Timestamp::as_second)
    }

    /// Holds invariant 11.5.
    #[test]
    fn a_repository_that_is_fetched_again_and_again_waits_longer_each_time() {
        assert_eq!(wait_after(0, 0), None);
        assert_eq!(wait_after(19, 1 << 20), None);
        assert_eq!(wait_after(20, 0), Some(30));
        assert_eq!(wait_after(25, 0), Some(180));
        assert_eq!(wait_after(10_000, u64::MAX), Some(3600));
    }

    #[test]
    fn a_large_repository_counts_for_more() {
        assert_eq!(wait_after(1, 300 << 20), Some(30 * 57));
        assert_eq!(wait_after(3, 16 << 20), None);
    }
}
