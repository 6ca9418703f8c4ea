//! Asks the host of an account whether it is really gone.

use super::fetch::own_host;
use super::{Refused, Repositories, retry_at};
use crate::actors::Context;
use crate::hosts::{HostError, RepoError};
use crate::identity::ResolveError;
use crate::store::StoreError;
use crate::store::repos::{Hearsay, RepoChange, Truth};

/// Asks, and notes what the answer is.
pub(super) async fn see_to(context: &Context, hearsay: &Hearsay) -> Result<(), StoreError> {
    let Some(repositories) = &context.repositories else {
        return Ok(());
    };
    let truth = ask(repositories, hearsay).await;
    match &truth {
        Truth::Unknown(_) => {}
        truth => tracing::debug!(
            did = %hearsay.did,
            said = hearsay.status,
            ?truth,
            "asked an account's host whether it is gone"
        ),
    }
    let answer = &truth;
    let change = RepoChange::HostAnswered { hearsay, answer };
    repositories.store.change(change).await?;
    Ok(())
}

async fn ask(repositories: &Repositories, hearsay: &Hearsay) -> Truth {
    let unknown = |after| Truth::Unknown(retry_at(hearsay.attempts, after));
    // An account that has moved is gone only from where it was, so what is known of it is not enough.
    let identities = &repositories.verification.identities;
    let identity = match identities.look_up(&hearsay.did).await {
        Ok(identity) => identity,
        Err(ResolveError::Tombstoned) => return Truth::Deleted,
        Err(error) => return unknown(error.retry_after()),
    };
    let Some(host) = own_host(&identity) else {
        return unknown(None);
    };
    let lane = repositories.lanes.of(&host.url);
    let _turn = match lane.enter().await {
        Ok(turn) => turn,
        Err(Refused::Busy) => return unknown(None),
        Err(Refused::Resting(rest)) => return unknown(Some(rest)),
    };
    match lane.heed(repositories.hosts.repo_status(&host, &hearsay.did).await) {
        Ok(status) if status.active => Truth::Active,
        Ok(status) if status.status.as_deref() == Some("deleted") => Truth::Deleted,
        Ok(status) => Truth::Inactive(status.status),
        Err(HostError::Repo(RepoError::NotFound)) => Truth::Deleted,
        Err(HostError::Repo(RepoError::Takendown)) => Truth::Inactive(Some("takendown".to_owned())),
        Err(HostError::Repo(RepoError::Suspended)) => Truth::Inactive(Some("suspended".to_owned())),
        Err(HostError::Repo(RepoError::Deactivated)) => {
            Truth::Inactive(Some("deactivated".to_owned()))
        }
        Err(HostError::Throttled { retry_after }) => unknown(retry_after),
        Err(_) => unknown(None),
    }
}
