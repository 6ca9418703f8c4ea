//! Whether a host serves a repository, by whichever request the host knows.

use super::{Host, HostError, Hosts, RepoStatus};
use crate::atproto::syntax::{Did, Tid};
use crate::net::http_client::FetchError;

/// Asks `host` whether it serves the repository of `did`: by `getRepoStatus`, or else by
/// `getLatestCommit`, or else by `getRepo`, of which only the beginning is read.
///
/// # Errors
/// The last answer, if none of them answers the question.
pub(crate) async fn hosting_status(
    hosts: &dyn Hosts,
    host: &Host,
    did: &Did,
) -> Result<RepoStatus, HostError> {
    match hosts.repo_status(host, did).await {
        Err(error) if is_no_answer(&error) => {}
        answer => return answer,
    }
    match hosts.latest_commit(host, did).await {
        Err(error) if is_no_answer(&error) => {}
        answer => return answer.map(|latest| active(Some(latest.rev))),
    }
    hosts.repo(host, did).await.map(|_car| active(None))
}

fn active(rev: Option<Tid>) -> RepoStatus {
    RepoStatus {
        active: true,
        status: None,
        rev,
    }
}

/// The host answered, but not to the question: it does not know the request, or fails at it. A host
/// that gives no answer at all is not asked in another way.
fn is_no_answer(error: &HostError) -> bool {
    match error {
        HostError::Invalid(_) | HostError::NotSupported => true,
        HostError::Unavailable(error) => matches!(error, FetchError::Status { .. }),
        HostError::Repo(_) | HostError::Throttled { .. } => false,
    }
}
