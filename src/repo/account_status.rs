//! Confirms the status of an account: at its own host, or at the source, if that holds the account.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fetch::{own_host, source};
use super::isolation::Progress;
use super::{Repositories, in_future, retry_at};
use crate::identity::ResolveError;
use crate::repo::host::{HostError, RepoError, hosting_status};
use crate::store::StoreError;
use crate::store::plan::effect::DELETED;
use crate::store::repo_store::{HostStatus, RepoChange, UnconfirmedStatus};

/// Asks, and stores the answer. If `yields` is cancelled, it counts as an attempt without one.
pub(super) async fn run(
    repositories: &Repositories,
    unconfirmed: &UnconfirmedStatus,
    yields: &CancellationToken,
) -> Result<Progress, StoreError> {
    let asked = async {
        match unconfirmed.is_held {
            true => ask_source(repositories, unconfirmed).await,
            false => ask_own_host(repositories, unconfirmed).await,
        }
    };
    let answer = &tokio::select! {
        answer = asked => answer,
        () = yields.cancelled() => unknown(unconfirmed, None),
    };
    let host_status = match answer {
        HostStatus::Active => Some("active"),
        HostStatus::Deleted => Some("deleted"),
        HostStatus::Inactive(status) => Some(status.as_deref().unwrap_or("inactive")),
        HostStatus::NotAsked(_) | HostStatus::Unknown(_) => None,
    };
    if let Some(host_status) = host_status {
        tracing::debug!(
            did = %unconfirmed.did,
            event_status = unconfirmed.status,
            host_status,
            is_held = unconfirmed.is_held,
            "an account's status was told when asked"
        );
    }
    let change = RepoChange::HostAnswered {
        unconfirmed,
        answer,
    };
    repositories.store.change(change).await?;
    Ok(match host_status {
        Some(_) => Progress::Done,
        None => Progress::DueAgain,
    })
}

async fn ask_own_host(repositories: &Repositories, unconfirmed: &UnconfirmedStatus) -> HostStatus {
    // An account that moved is inactive only at its old host, so the cached identity is not enough.
    let identities = repositories.verification.identities.in_background();
    let identity = match identities.look_up(&unconfirmed.did).await {
        Ok(identity) => identity,
        Err(ResolveError::Tombstoned) => return HostStatus::Deleted,
        Err(error) => {
            return match error.wait() {
                Some(wait) => not_asked(repositories, wait),
                None => unknown(unconfirmed, error.retry_after()),
            };
        }
    };
    let Some(host) = own_host(&identity) else {
        return unknown(unconfirmed, None);
    };
    let limiter = repositories.host_limiters.of(&host.url);
    let permit = match limiter.enter().await {
        Ok(permit) => permit,
        Err(no_slot) => return not_asked(repositories, no_slot.wait()),
    };
    let answer = hosting_status(repositories.hosts.as_ref(), &host, &unconfirmed.did).await;
    match permit.record(answer) {
        Ok(answer) if answer.active => HostStatus::Active,
        Ok(answer) if answer.status.as_deref() == Some(DELETED) => HostStatus::Deleted,
        Ok(answer) => HostStatus::Inactive(answer.status),
        Err(HostError::Repo(RepoError::NotFound)) => HostStatus::Deleted,
        Err(HostError::Repo(RepoError::Takendown)) => inactive("takendown"),
        Err(HostError::Repo(RepoError::Suspended)) => inactive("suspended"),
        Err(HostError::Repo(RepoError::Deactivated)) => inactive("deactivated"),
        Err(error) => unanswered(repositories, unconfirmed, &error),
    }
}

/// Asks the source whether it still holds the account. A source that does not say otherwise does.
async fn ask_source(repositories: &Repositories, unconfirmed: &UnconfirmedStatus) -> HostStatus {
    let source = source(repositories);
    let limiter = repositories.host_limiters.of(&source.url);
    let permit = match limiter.enter().await {
        Ok(permit) => permit,
        Err(no_slot) => return not_asked(repositories, no_slot.wait()),
    };
    let answer = repositories
        .hosts
        .repo_status(&source, &unconfirmed.did)
        .await;
    match permit.record(answer) {
        Ok(answer) if answer.active => HostStatus::Active,
        Ok(_) | Err(HostError::Invalid(_) | HostError::NotSupported | HostError::Repo(_)) => {
            HostStatus::Inactive(unconfirmed.status.clone())
        }
        Err(error) => unanswered(repositories, unconfirmed, &error),
    }
}

/// The host gave no answer, or could not be asked.
fn unanswered(
    repositories: &Repositories,
    unconfirmed: &UnconfirmedStatus,
    error: &HostError,
) -> HostStatus {
    match error.wait() {
        Some(wait) => not_asked(repositories, wait),
        None => unknown(unconfirmed, retry_after(error)),
    }
}

fn inactive(status: &str) -> HostStatus {
    HostStatus::Inactive(Some(status.to_owned()))
}

fn unknown(unconfirmed: &UnconfirmedStatus, after: Option<Duration>) -> HostStatus {
    HostStatus::Unknown(retry_at(unconfirmed.attempts, after))
}

/// The question has to wait. It is no attempt, and is asked when the wait ends.
fn not_asked(repositories: &Repositories, wait: Duration) -> HostStatus {
    repositories.wake_after(wait);
    HostStatus::NotAsked(in_future(wait))
}

fn retry_after(error: &HostError) -> Option<Duration> {
    match error {
        HostError::Throttled { retry_after } => *retry_after,
        _ => None,
    }
}
