//! The handles of accounts as they are verified.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::StoreError;
pub use super::plan::HandleCheck;
use super::repo_store::RepoStore;
use crate::atproto::syntax::Did;

/// An account whose handle the HandlesActor verifies next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncheckedHandle {
    pub did: Did,
    /// The handle that the tables have.
    pub handle: Option<String>,
}

/// Accounts whose handles are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncheckedPage {
    pub accounts: Vec<UncheckedHandle>,
    /// The DID up to which accounts were looked at; `None` at the end.
    pub through: Option<String>,
}

/// The handles of accounts. What was found is written by [`RepoStore::change`].
pub trait HandleStore: RepoStore {
    /// Accounts behind `after`, a DID, of which records are kept and whose handle is due, at most
    /// `limit`. It looks at a bounded number of accounts.
    fn unchecked_handles<'a>(
        &'a self,
        after: &'a str,
        now: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<UncheckedPage, StoreError>>;
}
