//! Asks the host of an account whether it is really gone.

use super::fetch::own_host;
use super::{NoSlot, Repositories, retry_at};
use crate::identity::ResolveError;
use crate::repo::host::{HostError, RepoError};
use crate::store::StoreError;
use crate::store::repos::{HostStatus, UnconfirmedStatus};

/// Asks, and notes what the answer is.
pub(super) async fn run(
    repositories: &Repositories,
    unconfirmed: &UnconfirmedStatus,
) -> Result<(), StoreError> {
    let host_status = ask(repositories, unconfirmed).await;
    match &host_status {
        HostStatus::Unknown(_) => {}
        host_status => tracing::debug!(
            did = %unconfirmed.did,
            said = unconfirmed.status,
            ?host_status,
            "asked an account's host whether it is gone"
        ),
    }
    repositories
        .store
        .confirm_status(unconfirmed, &host_status)
        .await
}

async fn ask(repositories: &Repositories, unconfirmed: &UnconfirmedStatus) -> HostStatus {
    let unknown = |after| HostStatus::Unknown(retry_at(unconfirmed.attempts, after));
    // An account that has moved is gone only from where it was, so what is known of it is not enough.
    let identities = &repositories.verification.identities;
    let identity = match identities.look_up(&unconfirmed.did).await {
        Ok(identity) => identity,
        Err(ResolveError::Tombstoned) => return HostStatus::Deleted,
        Err(error) => return unknown(error.retry_after()),
    };
    let Some(host) = own_host(&identity) else {
        return unknown(None);
    };
    let limiter = repositories.host_limiters.of(&host.url);
    let _turn = match limiter.enter().await {
        Ok(turn) => turn,
        Err(NoSlot::Busy) => return unknown(None),
        Err(NoSlot::CoolingDown(rest)) => return unknown(Some(rest)),
    };
    match limiter.record_response(
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
