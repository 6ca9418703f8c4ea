//! Confirms the status of an account at its own host.

use super::fetch::own_host;
use super::{Repositories, in_future, retry_at};
use crate::identity::ResolveError;
use crate::repo::host::{HostError, RepoError};
use crate::store::StoreError;
use crate::store::repo_store::{HostStatus, RepoChange, UnconfirmedStatus};

/// Asks the host, and stores its answer.
pub(super) async fn run(
    repositories: &Repositories,
    unconfirmed: &UnconfirmedStatus,
) -> Result<(), StoreError> {
    let answer = &ask_host(repositories, unconfirmed).await;
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
            "the account's host told its status"
        );
    }
    let change = RepoChange::HostAnswered {
        unconfirmed,
        answer,
    };
    repositories.store.change(change).await?;
    Ok(())
}

async fn ask_host(repositories: &Repositories, unconfirmed: &UnconfirmedStatus) -> HostStatus {
    let not_asked = |wait| {
        repositories.wake_after(wait);
        HostStatus::NotAsked(in_future(wait))
    };
    let unknown = |after| HostStatus::Unknown(retry_at(unconfirmed.attempts, after));
    // An account that moved is inactive only at its old host, so the cached identity is not enough.
    let identities = &repositories.verification.identities;
    let identity = match identities.look_up(&unconfirmed.did).await {
        Ok(identity) => identity,
        Err(ResolveError::Tombstoned) => return HostStatus::Deleted,
        Err(error) => {
            return match error.wait() {
                Some(wait) => not_asked(wait),
                None => unknown(error.retry_after()),
            };
        }
    };
    let Some(host) = own_host(&identity) else {
        return unknown(None);
    };
    let limiter = repositories.host_limiters.of(&host.url);
    let permit = match limiter.enter().await {
        Ok(permit) => permit,
        Err(no_slot) => return not_asked(no_slot.wait()),
    };
    match permit.record(
        repositories
            .hosts
            .repo_status(&host, &unconfirmed.did)
            .await,
    ) {
        Ok(status) if status.active => HostStatus::Active,
        Ok(status) if status.status.as_deref() == Some("deleted") => HostStatus::Deleted,
        Ok(status) => HostStatus::Inactive(status.status),
        Err(HostError::Repo(RepoError::NotFound)) => HostStatus::Deleted,
        Err(HostError::Repo(RepoError::Takendown)) => {
            HostStatus::Inactive(Some("takendown".to_owned()))
        }
        Err(HostError::Repo(RepoError::Suspended)) => {
            HostStatus::Inactive(Some("suspended".to_owned()))
        }
        Err(HostError::Repo(RepoError::Deactivated)) => {
            HostStatus::Inactive(Some("deactivated".to_owned()))
        }
        Err(HostError::Throttled { retry_after }) => unknown(retry_after),
        Err(_) => unknown(None),
    }
}
