//! Takes an account's handle from its document, after an event that named none.

use tokio_util::sync::CancellationToken;

use super::isolation::Progress;
use super::{Repositories, in_future, retry_at};
use crate::identity::resolve::Unavailable;
use crate::store::StoreError;
use crate::store::repo_store::{DueHandle, HandleAnswer, RepoChange};

/// Counts as so many failed attempts. A handle is only a claim, so there is no hurry.
const ATTEMPTS: u32 = 5;

/// Looks the account up, and stores the handle that its document claims. If `yields` is cancelled, it
/// counts as an attempt without an answer.
pub(super) async fn run(
    repositories: &Repositories,
    due: &DueHandle,
    yields: &CancellationToken,
) -> Result<Progress, StoreError> {
    let identities = repositories.verification.identities.in_background();
    let looked_up = tokio::select! {
        looked_up = identities.get(&due.did) => looked_up,
        () = yields.cancelled() => Err(Unavailable::Busy.into()),
    };
    let answer = &match looked_up {
        Ok(identity) => HandleAnswer::Found(identity.handle.clone()),
        Err(error) if error.is_unknown() => HandleAnswer::Unknown(match error.wait() {
            // No server was asked.
            Some(wait) => in_future(wait),
            None => retry_at(ATTEMPTS, error.retry_after()),
        }),
        Err(_) => HandleAnswer::Found(None),
    };
    let change = RepoChange::HandleAnswered { due, answer };
    repositories.store.change(change).await?;
    Ok(match answer {
        HandleAnswer::Found(_) => Progress::Done,
        HandleAnswer::Unknown(_) => Progress::DueAgain,
    })
}
