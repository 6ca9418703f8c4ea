//! One repository's turn.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::fetch::{self, FetchFailure};
use super::queue::{self, Drained};
use super::{Repositories, compare, retry_at};
use crate::actors::Context;
use crate::operate::rate_limit::RateLimit;
use crate::store::repos::{Resync, ResyncFailure, Resynced, Unsettled};
use crate::store::{RepoState, StoreError};

/// A line about repositories in so much time at most, of each kind.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Does for `repo` what can be done now. That it has been in vain is in the tables, and in the log.
pub(super) async fn see_to(context: &Context, repo: &Unsettled) {
    let Some(repositories) = &context.repositories else {
        return;
    };
    if let Err(error) = take(context, repositories, repo).await {
        // It stays in the tables as it was.
        tracing::debug!(did = %repo.did, %error, "the database does not let a repository be seen to");
    }
}

async fn take(
    context: &Context,
    repositories: &Repositories,
    repo: &Unsettled,
) -> Result<(), StoreError> {
    let is_settled = matches!(repo.state, RepoState::Synchronized | RepoState::Unchained);
    let mut reason = match is_settled {
        false => Some(repo.cause.as_deref().unwrap_or("operator")),
        true if repo.is_doubted => match compare_heads(repositories, repo).await? {
            Compared::Same => None,
            Compared::Differs => Some("gap"),
            Compared::Unknown => return Ok(()),
        },
        true => None,
    };
    // What waits may break the chain, and then the repository is fetched after all: once a turn.
    let mut was_fetched = false;
    loop {
        if let Some(cause) = reason.take() {
            was_fetched = true;
            if !resync(context, repositories, repo, cause).await? {
                return Ok(());
            }
        }
        match queue::drain(context, repositories, &repo.did).await? {
            Drained::Empty => return Ok(()),
            Drained::Broken if !was_fetched => reason = Some("queue"),
            Drained::Broken => return postpone(repositories, repo, None).await,
            Drained::Unknown { retry_after } => {
                return postpone(repositories, repo, retry_after).await;
            }
        }
    }
}

async fn postpone(
    repositories: &Repositories,
    repo: &Unsettled,
    retry_after: Option<Duration>,
) -> Result<(), StoreError> {
    let until = retry_at(repo.attempts, retry_after);
    repositories.store.postpone(&repo.did, until).await
}

/// What came of comparing a repository with what its host has.
enum Compared {
    Same,
    Differs,
    /// Nobody says, for now.
    Unknown,
}

async fn compare_heads(
    repositories: &Repositories,
    repo: &Unsettled,
) -> Result<Compared, StoreError> {
    match fetch::is_where_it_was(repositories, repo).await {
        Ok(true) => {
            repositories.store.settle_doubt(&repo.did).await?;
            Ok(Compared::Same)
        }
        Ok(false) => {
            repositories.store.desynchronize(&repo.did, "gap").await?;
            Ok(Compared::Differs)
        }
        Err(failure) => {
            tracing::debug!(did = %repo.did, error = %failure, "cannot compare a repository");
            repositories.note_status(repo, &failure).await?;
            postpone(repositories, repo, failure.retry_after()).await?;
            Ok(Compared::Unknown)
        }
    }
}

/// Fetches a repository, and makes the tables equal to it. Says whether that was done.
async fn resync(
    context: &Context,
    repositories: &Repositories,
    repo: &Unsettled,
    cause: &str,
) -> Result<bool, StoreError> {
    let started_at = Timestamp::now();
    if let Some(tracked) = context.rules.interest.tracked() {
        tracked.insert(repo.did.as_str());
    }
    repositories.store.begin_resync(&repo.did).await?;
    let fetched = fetch::fetch(context, repositories, repo).await;
    let (host, outcome) = match fetched {
        Err(failure) => (failure.host.clone(), Err(failure)),
        Ok(fetched) => {
            let host = Some(fetched.host.url.to_string());
            let compared = compare::write(context, repositories, &repo.did, &fetched).await;
            (host, compared)
        }
    };
    let is_done = outcome.is_ok();
    note_outcome(context, repositories, repo, cause, &outcome);
    if let Err(failure) = &outcome {
        repositories.note_status(repo, failure).await?;
    }
    let resync = Resync {
        did: repo.did.clone(),
        cause: cause.to_owned(),
        host,
        started_at,
        outcome: outcome.map_err(|failure| ResyncFailure {
            error: failure.to_string(),
            is_throttled: failure.is_throttled(),
            is_gone: failure.is_gone(),
            retry_at: retry_at(repo.attempts, failure.retry_after()),
        }),
    };
    repositories.store.end_resync(&resync).await?;
    Ok(is_done)
}

/// Counts it and logs it: every single one is a row, so of many at once a line tells for all.
fn note_outcome(
    context: &Context,
    repositories: &Repositories,
    repo: &Unsettled,
    cause: &str,
    outcome: &Result<Resynced, FetchFailure>,
) {
    match outcome {
        Ok(done) => {
            context.metrics.resynced(done);
            if let Some(more) = repositories.log.admit_done() {
                tracing::info!(
                    did = %repo.did, cause, created = done.created, updated = done.updated,
                    deleted = done.deleted, more, "fetched a repository"
                );
            }
        }
        Err(failure) => {
            let is_throttled = failure.is_throttled();
            context.metrics.failed_resyncs(is_throttled).increment(1);
            if let Some(more) = repositories.log.admit_failure() {
                tracing::warn!(
                    did = %repo.did, cause, host = failure.host, attempts = repo.attempts + 1,
                    error = %failure, more, "cannot fetch a repository; trying again later"
                );
            }
        }
    }
}

/// Holds back lines about repositories where they come by the thousand.
pub struct TurnLog {
    done: Mutex<RateLimit>,
    failures: Mutex<RateLimit>,
}

impl Default for TurnLog {
    fn default() -> Self {
        let limit = || Mutex::new(RateLimit::new(LOG_INTERVAL));
        Self {
            done: limit(),
            failures: limit(),
        }
    }
}

impl TurnLog {
    /// How many lines were held back, if this one is not.
    fn admit_done(&self) -> Option<u64> {
        admit(&self.done)
    }

    fn admit_failure(&self) -> Option<u64> {
        admit(&self.failures)
    }
}

fn admit(limit: &Mutex<RateLimit>) -> Option<u64> {
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    limit.admit(Instant::now())
}

impl Repositories {
    /// Where the account's own host says that it is not active, it is asked what it is.
    async fn note_status(
        &self,
        repo: &Unsettled,
        failure: &FetchFailure,
    ) -> Result<(), StoreError> {
        match failure.status() {
            Some(status) => self.store.suspect(&repo.did, status).await,
            None => Ok(()),
        }
    }
}
