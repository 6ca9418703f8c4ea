//! One repository's turn.

use std::time::Duration;

use jiff::Timestamp;

use super::fetch::{self, FetchFailure};
use super::queue::{self, Drained};
use super::{Repositories, compare, retry_at};
use crate::actors::Context;
use crate::store::repos::{Resync, ResyncFailure, Unsettled};
use crate::store::{RepoState, StoreError};

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
    match &outcome {
        Ok(done) => tracing::info!(
            did = %repo.did, cause, created = done.created, updated = done.updated,
            deleted = done.deleted, "fetched a repository"
        ),
        Err(failure) => tracing::warn!(
            did = %repo.did, cause, attempts = repo.attempts + 1, error = %failure,
            "cannot fetch a repository; trying again later"
        ),
    }
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
